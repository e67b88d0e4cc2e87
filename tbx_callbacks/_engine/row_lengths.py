"""Defines `RowLengths`, which counts padding, and what batches of rows of similar lengths would save."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from tbx_callbacks._stats.flat import moved
from tbx_callbacks.metrics.context import Padding

_MOST = 65_536  # rows that are sorted at a point


class RowLengths:
    """Collects the lengths of rows since the last point, on their device.

    Args:
        limit: the length at which the tokenizer cuts texts; None if it is unknown.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._restart()

    def _restart(self) -> None:
        self._lengths: list[Tensor] = []
        self._sizes: list[int] = []  # rows of each mask
        self._padded = self._rows = 0
        self._is_complete = True

    def add(self, masks: Sequence[Tensor] | None) -> None:
        """Adds the attention masks of a micro-batch, `[rows, length]`; None if it has none."""
        if masks is None:
            self._is_complete = False
            return
        for mask in masks:
            rows, width = mask.shape
            self._padded, self._rows = self._padded + rows * width, self._rows + rows
            self._lengths.append((mask != 0).sum(1, dtype=torch.int32))
            self._sizes.append(rows)

    def take(self) -> Padding | None:
        """The rows since the last point; None without any, or if a micro-batch had no mask."""
        lengths, sizes, padded, rows = self._lengths, self._sizes, self._padded, self._rows
        is_complete = self._is_complete
        self._restart()
        if not is_complete or not rows:
            return None
        device = lengths[0].device
        chosen = torch.cat([moved(each, device) for each in lengths])
        return Padding(
            kept=chosen.sum(),
            padded=padded,
            sorted=_sorted_tokens(chosen, sizes) if rows <= _MOST else None,
            rows=rows,
            at_limit=None if self._limit is None else (chosen >= self._limit).sum(),
        )


def _sorted_tokens(lengths: Tensor, sizes: Sequence[int]) -> Tensor:
    """The tokens, with padding, of the same rows sorted by length in batches of the same sizes."""
    ordered, start = lengths.sort(descending=True).values, 0
    total = ordered.new_zeros((), dtype=torch.int64)
    for size, number in sorted(Counter(sizes).items()):  # the longest rows in the smallest batches: the least padding
        longest = ordered[start : start + number * size : size]  # the first row of each batch
        total, start = total + longest.sum() * size, start + number * size
    return total
