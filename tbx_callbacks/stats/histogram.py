"""Exact histograms in three steps that also work for a tensor spread over ranks: agree on a range, count, add up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbx_callbacks.stats import histogram_cpu, histogram_device, histogram_small
from tbx_callbacks.stats.norms import flat

MOST_BINS = 255


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


def value_ranges(groups: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Smallest and largest finite element of each group, `[2]`; `(inf, -inf)` where there is none.

    On an accelerator nothing waits for it; a group's result is on the device of its first tensor.
    """
    flats = [[flat(tensor) for tensor in tensors] for tensors in groups]
    small = [place for place, tensors in enumerate(flats) if _on_cpu(tensors) and histogram_small.is_small(tensors)]
    tried = zip(small, histogram_small.bounds([flats[place] for place in small]), strict=True)
    found = {place: bounds for place, bounds in tried if bounds is not None}
    rest = [place for place, tensors in enumerate(flats) if place not in found and _on_cpu(tensors)]
    found.update(zip(rest, histogram_cpu.bounds([flats[place] for place in rest]), strict=True))
    return [found[place] if place in found else _bounds(tensors) for place, tensors in enumerate(flats)]


def count(groups: Sequence[Sequence[Tensor]], ranges: Sequence[Tensor], bins: Sequence[int]) -> list[Tensor]:
    """Counts each group over equal bins of its range; `finish` reads the result, `[4 + bins]` of one device.

    Elements are the smallest, the largest, the sum, the sum of squares and the counts; the last three are added over
    ranks. Ranges are `value_ranges` of the same tensors or of more of them. Non-finite elements are left out. An
    element within one rounding error of an edge may be counted on either side of it; the total is exact.
    """
    counted: list[Tensor | None] = [None] * len(groups)
    works: dict[int, histogram_cpu.Work] = {}
    for place, (tensors, bounds) in enumerate(zip(groups, ranges, strict=True)):
        flats = [flat(tensor) for tensor in tensors]
        if _on_cpu(flats):
            left, width = _range(*bounds.tolist())
            works[place] = histogram_cpu.Work(flats, left, width, bins[place])
        else:
            counted[place] = _count_on_devices(flats, bounds, bins[place])
    for place, part in _count_on_cpu(works).items():
        counted[place] = torch.cat([ranges[place], part])
    return [part for part in counted if part is not None]


def finish(packed: Sequence[float]) -> HistogramCounts | None:
    """The histogram from the numbers of `count`; None when there was nothing finite to count."""
    low, high, total, total_squares, *counts = packed
    if low > high:
        return None
    return HistogramCounts(tuple(map(int, counts)), low, high, total, total_squares)


def _bounds(tensors: Sequence[Tensor]) -> Tensor:
    parts = [histogram_device.bounds(part) for part in _by_device(tensors).values()]
    found = torch.stack([part.to(parts[0].device, parts[0].dtype, non_blocking=True) for part in parts])
    return torch.stack([found[:, 0].amin(), found[:, 1].amax()])


def _on_cpu(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors)


def _count_on_cpu(works: Mapping[int, histogram_cpu.Work]) -> dict[int, Tensor]:
    """Small ones in one flat pass; the others, and those that the pass cannot take, piece by piece."""
    small = [place for place, work in works.items() if histogram_small.is_small(work.tensors)]
    tried = zip(small, histogram_small.count([works[place] for place in small]), strict=True)
    found = {place: part for place, part in tried if part is not None}
    rest = [place for place in works if place not in found]
    parts = histogram_cpu.count([works[place] for place in rest])
    return {**found, **dict(zip(rest, parts, strict=True))}


def _count_on_devices(tensors: Sequence[Tensor], bounds: Tensor, bins: int) -> Tensor:
    low, high = bounds
    several = high > low
    left, width = torch.where(several, low, low - 0.5), torch.where(several, high - low, 1.0)
    parts = [
        histogram_device.count(part, left.to(device), width.to(device), bins)
        for device, part in _by_device(tensors).items()
    ]
    return torch.cat([bounds, torch.stack([part.to(bounds.device) for part in parts]).sum(0)])


def _by_device(tensors: Sequence[Tensor]) -> dict[torch.device, list[Tensor]]:
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device, []).append(tensor)
    return found


def _range(low: float, high: float) -> tuple[float, float]:
    """Left edge and width; a single value gets a bin of width 1 around it, as in numpy.histogram."""
    return (low, high - low) if high > low else (low - 0.5 if math.isfinite(low) else 0.0, 1.0)
