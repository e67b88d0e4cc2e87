"""Counts histograms on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbx_callbacks._stats.norms import HUGE, TINY, sum_of_squares
from tbx_callbacks._stats.threads import Pieces, on_threads

_BYTES = (torch.uint8, torch.int8, torch.bool)
_WORTH_PAIRS = 1 << 12


def bounds(groups: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Returns the smallest and largest finite element of each group of flat tensors, `[2]`; `(inf, -inf)` if none."""
    lows, highs = [math.inf] * len(groups), [-math.inf] * len(groups)
    for parts in on_threads(lambda pieces: [(index, *_bounds(piece)) for index, _, piece in pieces], Pieces(groups)):
        for index, low, high in parts:
            lows[index], highs[index] = min(lows[index], low), max(highs[index], high)
    return list(torch.tensor([lows, highs], dtype=torch.float64).t().contiguous().unbind())


def _bounds(values: Tensor) -> tuple[float, float]:
    if values.dtype.itemsize == 1 and values.dtype not in _BYTES:  # float8
        values = values.float()
    low, high = (bound.item() for bound in torch.aminmax(values))
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    values = values[torch.isfinite(values)]
    return _bounds(values) if values.numel() else (math.inf, -math.inf)


@dataclass(slots=True)
class Work:
    """One histogram to count: flat tensors, the left edge, the width of the range, the number of bins."""

    tensors: Sequence[Tensor]
    left: float
    width: float
    bins: int


def holds_float32(work: Work) -> bool:
    """Whether float32 can represent the bin indices of a range, which must not be very large or tiny."""
    return TINY < work.bins / work.width < HUGE and work.width <= HUGE


def count(works: Sequence[Work]) -> list[Tensor]:
    """Counts all histograms; returns for each `[2 + bins]` float64: the sum, the sum of squares and the counts."""

    def count_pieces(pieces: Pieces) -> list[_Table]:
        scratch = _Scratch(pieces.largest)
        tables: list[_Table] = []
        for index, number, piece in pieces:
            if not tables or tables[-1].index_of_work != index:
                tables.append(_Table(index, works[index], scratch))
            tables[-1].add(number, piece)
        return tables

    tables_by_work: list[list[_Table]] = [[] for _ in works]
    for tables in on_threads(count_pieces, Pieces([work.tensors for work in works])):
        for table in tables:
            tables_by_work[table.index_of_work].append(table)
    return [_merge(work, tables) for work, tables in zip(works, tables_by_work, strict=True)]


class _Scratch:
    """Buffers for one piece: scaled elements, their bins, and the bins of two elements in one number.

    Reuses views of the piece's size, because most pieces have the same size. Each saved call to torch is one less wait
    for the GIL.
    """

    def __init__(self, elements: int) -> None:
        self._floats = torch.empty(elements)
        self._bins = torch.empty(elements, dtype=torch.int16)
        self._pairs = torch.empty(elements // 2, dtype=torch.int16)
        self.fit(elements)

    def fit(self, elements: int) -> None:
        """Sets the length of the views."""
        half = elements // 2
        self.elements = elements
        self.floats, self.bins, self.pairs = self._floats[:elements], self._bins[:elements], self._pairs[:half]
        self.left, self.right, self.odd = self.bins[:half], self.bins[half : 2 * half], self.bins[2 * half :]


class _Table:
    """The counts of one histogram on one thread.

    Counts two elements at a time: their two bins make one number in a square table, so there are half as many numbers.
    """

    def __init__(self, index: int, work: Work, scratch: _Scratch) -> None:
        self.index_of_work, self._scratch = index, scratch
        self._left, self._scale = work.left, work.bins / work.width
        self._needs_float64 = not holds_float32(work)
        self._rows = work.bins + 1  # an extra bin for elements at the right edge
        # Pairs only for small tables: a larger one would exceed the cache, and its size int16.
        self._by_pairs = self._rows <= 129 and not self._needs_float64
        # One operator instead of two, if float32 loses no precision because 0 is in the range or near it.
        self._shift = torch.tensor(-work.left * self._scale) if abs(work.left) <= 2 * work.width else None
        self._single = torch.zeros(self._rows, dtype=torch.int64)
        self._square = torch.zeros(self._rows**2 if self._by_pairs else 0, dtype=torch.int64)
        self.moments: list[tuple[int, float, float]] = []
        """Index, sum and sum of squares of each piece."""

    def add(self, number: int, raw: Tensor) -> None:
        """Counts a piece."""
        piece, square = self._finite(raw)
        self.moments.append((number, piece.sum().item(), square))
        if self._by_pairs and piece.dtype == torch.float32 and piece.numel() >= _WORTH_PAIRS:
            self._count_pairs(piece)
        else:
            self._count(piece.sub(self._left).mul_(self._scale).int())

    def absorb(self, other: _Table) -> None:
        """Adds the counts of another thread for the same histogram."""
        self.moments += other.moments
        self._single += other._single
        self._square += other._square

    def counts(self) -> Tensor:
        """Returns the counts, `[bins]`."""
        all_counts = self._single
        if self._by_pairs:
            square = self._square.view(self._rows, self._rows)
            all_counts = all_counts + square.sum(0) + square.sum(1)
        all_counts[-2] += all_counts[-1]
        return all_counts[:-1]

    def _finite(self, raw: Tensor) -> tuple[Tensor, float]:
        """Returns the finite elements in a type that can represent their bins, and the sum of their squares."""
        exact_integers = not raw.dtype.is_floating_point and raw.dtype != torch.bool
        needs_float64 = self._needs_float64 or exact_integers or raw.dtype == torch.float64
        piece = raw.double() if needs_float64 else raw.float()
        square = sum_of_squares(piece)
        if not TINY < square < HUGE and not (square == 0 and not piece.any()):
            # float32 cannot represent the sum, or there is NaN or Inf
            piece = piece[torch.isfinite(piece)].double()
            square = piece.square().sum().item()
        return piece, square

    def _count(self, bins: Tensor) -> None:
        self._single += torch.bincount(bins, minlength=self._rows)

    def _count_pairs(self, piece: Tensor) -> None:
        scratch = self._scratch
        if piece.numel() != scratch.elements:
            scratch.fit(piece.numel())
        if self._shift is not None:
            torch.add(self._shift, piece, alpha=self._scale, out=scratch.floats)
        else:
            torch.sub(piece, self._left, out=scratch.floats).mul_(self._scale)
        scratch.bins.copy_(scratch.floats)
        torch.add(scratch.left, scratch.right, alpha=self._rows, out=scratch.pairs)
        self._square += torch.bincount(scratch.pairs, minlength=self._rows**2)
        if piece.numel() % 2:
            self._count(scratch.odd)


def _merge(work: Work, tables: Sequence[_Table]) -> Tensor:
    if not tables:
        return torch.zeros(2 + work.bins, dtype=torch.float64)
    for table in tables[1:]:
        tables[0].absorb(table)
    moments = sorted(tables[0].moments)  # the sum must not depend on which thread counted which piece
    total, square = sum(total for _, total, _ in moments), sum(square for _, _, square in moments)
    return torch.cat([torch.tensor([total, square], dtype=torch.float64), tables[0].counts()])
