"""Exact histograms in three steps that also work for a tensor spread over ranks: agree on a range, count, add up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbx_callbacks._stats import fused, histogram_cpu, histogram_device, histogram_small
from tbx_callbacks._stats.flat import flat

MOST_BINS = 255
Groups = Sequence[Sequence[Tensor]]


@dataclass(frozen=True)
class HistogramCounts:
    """Finished counts over equal bins.

    `edges` has one number more than `counts`; `counts[i]` is the number of elements in `[edges[i], edges[i+1])`, the
    last bin includes its right edge (as in numpy.histogram). `total` and `total_squares` are the sum and the sum of
    squares of all finite elements, `low` and `high` the smallest and largest of them.
    """

    counts: tuple[int, ...]
    low: float
    high: float
    total: float
    total_squares: float

    @property
    def edges(self) -> list[float]:
        """Bin edges, `len(counts) + 1` numbers."""
        low, width = _range(self.low, self.high)
        return [low + width * i / len(self.counts) for i in range(len(self.counts))] + [low + width]


def check_bins(bins: int) -> None:
    """Raises ValueError for a number of bins that nobody could look at."""
    if not 1 <= bins <= MOST_BINS:
        raise ValueError(f"bins must be between 1 and {MOST_BINS}, got {bins}")


def value_ranges(groups: Groups, known: Sequence[Tensor | None] = ()) -> list[Tensor]:
    """Smallest and largest finite element of each group, `[2]`; `(inf, -inf)` where there is none.

    On an accelerator nothing waits for it; a group's result is on the device of its first tensor. `known` may hold
    some of them already.
    """
    flats = [[flat(tensor) for tensor in tensors] for tensors in groups]
    found = {index: bounds for index, bounds in enumerate(known) if bounds is not None}
    for way, indices in _ways(flats).items():
        rest = [index for index in indices if index not in found]
        if rest:
            found.update(zip(rest, _BOUNDS[way[0]]([flats[index] for index in rest]), strict=True))
    return [found[index] for index in range(len(groups))]


def count(groups: Groups, ranges: Sequence[Tensor], bins: Sequence[int]) -> list[Tensor]:
    """Counts each group over equal bins of its range; `finish` reads the result, `[4 + bins]` of one device.

    Elements are the smallest, the largest, the sum, the sum of squares and the counts; the last three are added over
    ranks. Ranges are `value_ranges` of the same tensors or of more of them. Non-finite elements are left out. An
    element as near to an edge as float32 resolves the range may be counted on either side; the total is exact.
    """
    flats = [[flat(tensor) for tensor in tensors] for tensors in groups]
    found: dict[int, Tensor] = {}
    for way, indices in _ways(flats).items():
        given = ([flats[index] for index in indices], [ranges[index] for index in indices], [bins[p] for p in indices])
        found.update(zip(indices, _COUNT[way[0]](*given), strict=True))
    return [found[index] for index in range(len(groups))]


def finish(packed: Sequence[float]) -> HistogramCounts | None:
    """The histogram from the numbers of `count`; None when there was nothing finite to count."""
    low, high, total, total_squares, *counts = packed
    if low > high:
        return None
    return HistogramCounts(tuple(map(int, counts)), low, high, total, total_squares)


def _ways(flats: Groups) -> dict[tuple[str, torch.device | None], list[int]]:
    """Which groups are measured together and how: on the CPU, by the kernels of one device, or by torch's operators."""
    found: dict[tuple[str, torch.device | None], list[int]] = {}
    for index, tensors in enumerate(flats):
        if all(tensor.is_cpu for tensor in tensors):
            way: tuple[str, torch.device | None] = "cpu", None
        elif len({tensor.device for tensor in tensors}) == 1 and fused.takes(tensors):
            way = "fused", tensors[0].device
        else:
            way = "operators", None
        found.setdefault(way, []).append(index)
    return found


def _bounds_on_cpu(flats: Groups) -> list[Tensor]:
    """Small ones in one flat pass; the others, and those that the pass cannot take, piece by piece."""
    small = [index for index, tensors in enumerate(flats) if histogram_small.is_small(tensors)]
    tried = zip(small, histogram_small.bounds([flats[index] for index in small]), strict=True)
    found = {index: bounds for index, bounds in tried if bounds is not None}
    rest = [index for index in range(len(flats)) if index not in found]
    found.update(zip(rest, histogram_cpu.bounds([flats[index] for index in rest]), strict=True))
    return [found[index] for index in range(len(flats))]


def _count_on_cpu(flats: Groups, ranges: Sequence[Tensor], bins: Sequence[int]) -> list[Tensor]:
    every = torch.stack(list(ranges))
    works = [
        histogram_cpu.Work(tensors, *_range(*bounds), number)
        for tensors, bounds, number in zip(flats, every.tolist(), bins, strict=True)
    ]
    small = [index for index, tensors in enumerate(flats) if histogram_small.is_small(tensors)]
    tried = zip(small, histogram_small.count([works[index] for index in small], every[small]), strict=True)
    found = {index: part for index, part in tried if part is not None}
    rest = [index for index in range(len(works)) if index not in found]
    counted = zip(rest, histogram_cpu.count([works[index] for index in rest]), strict=True)
    found.update((index, torch.cat([ranges[index], part])) for index, part in counted)
    return [found[index] for index in range(len(works))]


def _range(low: float, high: float) -> tuple[float, float]:
    """Left edge and width; a single value gets a bin of width 1 around it, as in numpy.histogram."""
    return (low, high - low) if high > low else (low - 0.5 if math.isfinite(low) else 0.0, 1.0)


_BOUNDS = {"cpu": _bounds_on_cpu, "fused": fused.bounds, "operators": histogram_device.bounds}
_COUNT = {"cpu": _count_on_cpu, "fused": fused.count, "operators": histogram_device.count}
