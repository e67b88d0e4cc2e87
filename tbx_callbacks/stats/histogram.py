"""Exact histograms in three steps that also work for a tensor spread over ranks: agree on a range, count, add up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbx_callbacks.stats.norms import flat

# 1 MiB of float32: the working copies stay in a core's cache, and no tensor is ever copied whole.
_CHUNK = 1 << 18
_BYTES = (torch.uint8, torch.int8, torch.bool)


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
    """Raises ValueError for a number of bins that cannot be counted in one pass."""
    if not 1 <= bins <= 255:
        raise ValueError(f"bins must be between 1 and 255, got {bins}")


def value_range(tensors: Sequence[Tensor]) -> tuple[float, float]:
    """Smallest and largest finite element over all tensors; `(inf, -inf)` when there is none."""
    low, high = math.inf, -math.inf
    for tensor in tensors:
        values = flat(tensor)
        values = values.float() if values.dtype.itemsize == 1 and values.dtype not in _BYTES else values  # float8
        if values.numel() == 0:
            continue
        least, most = (bound.item() for bound in torch.aminmax(values))
        if not (math.isfinite(least) and math.isfinite(most)):
            values = values[torch.isfinite(values)]
            if values.numel() == 0:
                continue
            least, most = (bound.item() for bound in torch.aminmax(values))
        low, high = min(low, least), max(high, most)
    return low, high


def count(tensors: Sequence[Tensor], low: float, high: float, bins: int) -> tuple[Tensor, float, float]:
    """Counts over `bins` equal bins of `[low, high]`, `[bins]` int64; the sum; the sum of squares.

    `low` and `high` are `value_range` over the same tensors or over more of them. Non-finite elements are left out. An
    element within one rounding error of an edge may be counted on either side of it; the total is exact.
    """
    left, width = _range(low, high)
    scale = bins / width if width else math.inf
    counts = torch.zeros(bins + 1, dtype=torch.int64)  # on the host; a device's counts are fetched tensor by tensor
    total = total_squares = 0.0
    for tensor in tensors:
        for raw in flat(tensor).split(_CHUNK):
            # float64 where float32 could not hold the bin's index: float64 input, or a very large or tiny range
            exact_integers = not raw.dtype.is_floating_point and raw.dtype != torch.bool
            wide = raw.dtype == torch.float64 or exact_integers or not 1e-30 < scale < 1e30 or width > 1e30
            chunk = raw.double() if wide else raw.float()
            square = torch.dot(chunk, chunk).item()
            if not 1e-30 < square < 1e30:
                chunk = chunk[torch.isfinite(chunk)].double()
                square = chunk.square().sum().item()
            total_squares += square
            total += chunk.sum().item()
            index = torch.sub(chunk, left).mul_(scale)
            # uint8 is the cheapest index that bincount takes; an element at the right edge lands in the extra bin
            counts += torch.bincount(index.to(torch.uint8), minlength=bins + 1).cpu()
    counts[bins - 1] += counts[bins]
    return counts[:bins], total, total_squares


def _range(low: float, high: float) -> tuple[float, float]:
    """Left edge and width; a single value gets a bin of width 1 around it, as in numpy.histogram."""
    return (low, high - low) if high > low else (low - 0.5, 1.0)
