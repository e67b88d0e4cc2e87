"""Computes exact histograms in three steps that also work for sharded tensors: agree on a range, count, add counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbx_callbacks._stats import fused_moments as fused
from tbx_callbacks._stats import histogram_cpu, histogram_device, histogram_small

MOST_BINS = 255
Groups = Sequence[Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class HistogramCounts:
    """Final counts over equal bins.

    `edges` has one more number than `counts`. `counts[i]` is the number of elements in `[edges[i], edges[i+1])`; the
    last bin includes its right edge (as in numpy.histogram). `total` and `total_squares` are the sum and the sum of
    squares of all finite elements, `low` and `high` the smallest and largest finite element.
    """

    counts: tuple[int, ...]
    low: float
    high: float
    total: float
    total_squares: float

    @property
    def edges(self) -> list[float]:
        """Bin edges, `len(counts) + 1` numbers."""
        (low, width), bins = _range(self.low, self.high), len(self.counts)
        edges: list[float] = (low + width * np.arange(bins) / bins).tolist()
        return [*edges, low + width]


def check_bins(bins: int) -> None:
    """Raises ValueError if the number of bins is not between 1 and `MOST_BINS`."""
    if not 1 <= bins <= MOST_BINS:
        raise ValueError(f"bins must be between 1 and {MOST_BINS}, got {bins}")


def value_ranges(groups: Groups, known: Sequence[Tensor | None] = ()) -> list[Tensor]:
    """Returns the smallest and largest finite element of each group of flat tensors, `[2]`; `(inf, -inf)` if none.

    Causes no host sync on an accelerator; a group's result is on the device of its first tensor. `known` may provide
    some of the results.
    """
    results = {index: bounds for index, bounds in enumerate(known) if bounds is not None}
    for backend, indices in _by_backend(groups).items():
        unknown = [index for index in indices if index not in results]
        if unknown:
            results.update(zip(unknown, _BOUNDS[backend[0]]([groups[index] for index in unknown]), strict=True))
    return [results[index] for index in range(len(groups))]


def count(groups: Groups, ranges: Sequence[Tensor], bins: Sequence[int]) -> list[Tensor]:
    """Counts each group of flat tensors over equal bins of its range. Returns `[4 + bins]` tensors; see `finish`.

    Their numbers are the smallest element, the largest, the sum, the sum of squares and the counts; the last three are
    added over ranks. Ranges are `value_ranges` of the same tensors or of a superset. Non-finite elements are left out.
    An element that float32 cannot tell from an edge may be counted on either side; the total is exact.
    """
    results: dict[int, Tensor] = {}
    for backend, indices in _by_backend(groups).items():
        arguments = (
            [groups[index] for index in indices],
            [ranges[index] for index in indices],
            [bins[p] for p in indices],
        )
        results.update(zip(indices, _COUNT[backend[0]](*arguments), strict=True))
    return [results[index] for index in range(len(groups))]


def finish(packed: Sequence[float]) -> HistogramCounts | None:
    """Returns the histogram from the numbers of `count`; None without finite elements."""
    low, high, total, total_squares = packed[:4]
    if low > high:
        return None
    return HistogramCounts(tuple(map(int, packed[4:])), low, high, total, total_squares)


def _by_backend(flats: Groups) -> dict[tuple[str, torch.device | None], list[int]]:
    """Assigns groups to implementations: the CPU, the kernels of one device, or torch's operators."""
    groups_by_backend: dict[tuple[str, torch.device | None], list[int]] = {}
    for index, tensors in enumerate(flats):
        groups_by_backend.setdefault(_backend(tensors), []).append(index)
    return groups_by_backend


def _backend(tensors: Sequence[Tensor]) -> tuple[str, torch.device | None]:
    for tensor in tensors:
        if not tensor.is_cpu:
            break
    else:
        return "cpu", None
    if len({tensor.device for tensor in tensors}) == 1 and fused.supports(tensors):
        return "fused", tensors[0].device
    return "operators", None


def _bounds_on_cpu(flats: Groups) -> list[Tensor]:
    """Computes small groups in one flat pass, and all other groups piece by piece."""
    small = histogram_small.sizes_of_small(flats)
    small_results = zip(small, histogram_small.bounds([flats[index] for index in small], small.values()), strict=True)
    results = {index: bounds for index, bounds in small_results if bounds is not None}
    rest = [index for index in range(len(flats)) if index not in results]
    if rest:
        results.update(zip(rest, histogram_cpu.bounds([flats[index] for index in rest]), strict=True))
    return [results[index] for index in range(len(flats))]


def _count_on_cpu(flats: Groups, ranges: Sequence[Tensor], bins: Sequence[int]) -> list[Tensor]:
    stacked_ranges = torch.stack(list(ranges))
    works = [
        histogram_cpu.Work(tensors, *_range(*bounds), number)
        for tensors, bounds, number in zip(flats, stacked_ranges.tolist(), bins, strict=True)
    ]
    small = histogram_small.sizes_of_small(flats)
    small_results = zip(
        small,
        histogram_small.count([works[index] for index in small], stacked_ranges[list(small)], small.values()),
        strict=True,
    )
    results = {index: part for index, part in small_results if part is not None}
    rest = [index for index in range(len(works)) if index not in results]
    if rest:
        other_results = zip(rest, histogram_cpu.count([works[index] for index in rest]), strict=True)
        results.update((index, torch.cat([ranges[index], part])) for index, part in other_results)
    return [results[index] for index in range(len(works))]


def _range(low: float, high: float) -> tuple[float, float]:
    """Returns left edge and width; a single value gets a bin of width 1 around it, as in numpy.histogram."""
    return (low, high - low) if high > low else (low - 0.5 if math.isfinite(low) else 0.0, 1.0)


_BOUNDS = {"cpu": _bounds_on_cpu, "fused": fused.bounds, "operators": histogram_device.bounds}
_COUNT = {"cpu": _count_on_cpu, "fused": fused.count, "operators": histogram_device.count}
