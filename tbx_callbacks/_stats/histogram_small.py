"""Counts many small histograms in one flat pass: a few numpy operations for all of them, instead of a few for each.

numpy instead of torch: a call costs less, and no call waits for torch's threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbx_callbacks._stats.histogram_cpu import Work, holds_float32

SMALL = 1 << 13
_PASS_SIZE = 1 << 15  # elements per pass, so that they stay in the cache
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_PLAIN = (Tensor, torch.nn.Parameter)  # others may not become arrays


def sizes_of_small(groups: Sequence[Sequence[Tensor]]) -> dict[int, int]:
    """Returns the numbers of elements of the groups that suit a flat pass, by index.

    They have flat tensors of a supported type, and few elements.
    """
    sizes: dict[int, int] = {}
    for index, tensors in enumerate(groups):
        size = 0
        for tensor in tensors:
            size += tensor.numel()
            if size > SMALL or tensor.dtype not in _FLOATS or type(tensor) not in _PLAIN:
                break
        else:
            if size:
                sizes[index] = size
    return sizes


def bounds(groups: Sequence[Sequence[Tensor]], sizes: Iterable[int]) -> list[Tensor | None]:
    """Returns the smallest and largest element of each group, `[2]` float64; None for groups with NaN or Inf.

    `sizes` are their numbers of elements.
    """
    results: list[Tensor | None] = []
    for part, group_sizes in _batches(sizes):
        values, starts = _flat(groups[part], group_sizes)
        both = np.empty((len(starts), 2))
        with np.errstate(all="ignore"):
            both[:, 0] = np.minimum.reduceat(values, starts)
            both[:, 1] = np.maximum.reduceat(values, starts)
        results += _where(np.isfinite(both).all(axis=1), both)
    return results


def count(works: Sequence[Work], ranges: Tensor, sizes: Iterable[int]) -> list[Tensor | None]:
    """Returns the same as `histogram.count`; `ranges` is `[works, 2]`, and `sizes` are numbers of elements.

    The result is None for groups with NaN or Inf, and for ranges that float32 cannot represent.
    """
    results: list[Tensor | None] = []
    all_ranges = ranges.numpy()
    for part, group_sizes in _batches(sizes):
        results += _count(works[part], all_ranges[part], group_sizes)
    return results


def _count(works: Sequence[Work], ranges: NDArray[np.float64], sizes: NDArray[np.int64]) -> list[Tensor | None]:
    values, starts = _flat([work.tensors for work in works], sizes)
    bins = np.array([work.bins for work in works])
    rows = int(bins.max()) + 1  # an extra bin for elements at the right edge
    with np.errstate(all="ignore"):
        exact = values.astype(np.float64)
        totals = np.add.reduceat(exact, starts)
        squares = np.add.reduceat(np.square(exact, out=exact), starts)
        good = np.isfinite(squares) & np.array([holds_float32(work) for work in works])
        if not good.all():
            values[np.repeat(~good, sizes)] = 0
        lefts = np.array([work.left for work in works], dtype=np.float32)
        scales = np.array([work.bins / work.width for work in works], dtype=np.float32)
        np.subtract(values, np.repeat(lefts, sizes), out=values)
        np.multiply(values, np.repeat(scales, sizes), out=values)
        indices = np.clip(np.nan_to_num(values, copy=False), 0, rows - 1, out=values).astype(np.int64)
    indices += np.repeat(np.arange(len(works)) * rows, sizes)
    counts = np.bincount(indices, minlength=rows * len(works)).reshape(-1, rows)
    counts[np.arange(len(works)), bins - 1] += counts[np.arange(len(works)), bins]
    if (bins == bins[0]).all():
        counts = counts[:, : bins[0]]  # one slice for all rows
    packed = np.concatenate([ranges, totals[:, None], squares[:, None], counts], axis=1)
    return [
        row if row is None or len(row) == 4 + work.bins else row[: 4 + work.bins]
        for work, row in zip(works, _where(good, packed), strict=True)
    ]


def _where(good: Any, rows: NDArray[np.float64]) -> list[Tensor | None]:
    """Returns the rows as tensors, and None where they are not good, `[rows]` booleans."""
    tensors: list[Tensor | None] = list(torch.from_numpy(rows).unbind())
    for index in np.flatnonzero(~good):
        tensors[index] = None
    return tensors


def _flat(
    groups: Sequence[Sequence[Tensor]], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns the elements of all groups, and the index of the first one of each."""
    values = torch.cat([tensor.float() for group in groups for tensor in group]).numpy()
    return values, np.cumsum(sizes) - sizes


def _batches(sizes: Iterable[int]) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Yields groups that fit into one pass: their indices, and their numbers of elements."""
    all_sizes = list(sizes)
    start = batch_size = 0
    for index, size in enumerate(all_sizes):
        if index > start and batch_size + size > _PASS_SIZE:
            yield slice(start, index), np.array(all_sizes[start:index])
            start, batch_size = index, 0
        batch_size += size
    if start < len(all_sizes):
        yield slice(start, len(all_sizes)), np.array(all_sizes[start:])
