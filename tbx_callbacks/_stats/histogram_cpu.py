"""Counting on the CPU."""

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
    """Smallest and largest finite element of each group of flat tensors, `[2]`; `(inf, -inf)` where there is none."""
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


@dataclass
class Work:
    """One histogram to count: flat tensors, the left edge, the width of the range, the number of bins."""

    tensors: Sequence[Tensor]
    left: float
    width: float
    bins: int


def holds_float32(work: Work) -> bool:
    """Whether float32 can hold the bin indices of a range: it is not very large or tiny."""
    return TINY < work.bins / work.width < HUGE and work.width <= HUGE


def count(works: Sequence[Work]) -> list[Tensor]:
    """Counts all of them; for each one `[2 + bins]` float64: the sum, the sum of squares and the counts."""

    def some(pieces: Pieces) -> list[_Table]:
        scratch = _Scratch(pieces.largest)
        tables: list[_Table] = []
        for index, number, piece in pieces:
            if not tables or tables[-1].place != index:
                tables.append(_Table(index, works[index], scratch))
            tables[-1].add(number, piece)
        return tables

    found: list[list[_Table]] = [[] for _ in works]
    for tables in on_threads(some, Pieces([work.tensors for work in works])):
        for table in tables:
            found[table.place].append(table)
    return [_merged(work, tables) for work, tables in zip(works, found, strict=True)]


class _Scratch:
    """Working copies of one piece: scaled elements, their bins, and the bins of two elements in one number.

    The views that fit a piece are kept: most pieces have the same size, and each call of torch that a thread saves is
    one less in which it waits for the interpreter's lock.
    """

    def __init__(self, elements: int) -> None:
        self._floats = torch.empty(elements)
        self._bins = torch.empty(elements, dtype=torch.int16)
        self._pairs = torch.empty(elements // 2, dtype=torch.int16)
        self.fit(elements)

    def fit(self, elements: int) -> None:
        """Makes the views as long as a piece."""
        half = elements // 2
        self.elements = elements
        self.floats, self.bins, self.pairs = self._floats[:elements], self._bins[:elements], self._pairs[:half]
        self.left, self.right, self.odd = self.bins[:half], self.bins[half : 2 * half], self.bins[2 * half :]


class _Table:
    """What one thread counts of a work.

    Two elements at a time: their bins make one number, so that half as many are counted, in a square table.
    """

    def __init__(self, index: int, work: Work, scratch: _Scratch) -> None:
        self.place, self._scratch = index, scratch
        self._left, self._scale = work.left, work.bins / work.width
        self._wide = not holds_float32(work)
        self._rows = work.bins + 1  # one bin more: an element at the right edge lands there
        self._by_pairs = self._rows <= 129 and not self._wide  # a larger table would leave the cache, its size int16
        # One operator instead of two where float32 loses nothing by it: 0 is in the range, or near it.
        self._shift = torch.tensor(-work.left * self._scale) if abs(work.left) <= 2 * work.width else None
        self._single = torch.zeros(self._rows, dtype=torch.int64)
        self._square = torch.zeros(self._rows**2 if self._by_pairs else 0, dtype=torch.int64)
        self.moments: list[tuple[int, float, float]] = []
        """Number, sum and sum of squares of each piece."""

    def add(self, number: int, raw: Tensor) -> None:
        """Counts a piece."""
        piece, square = self._finite(raw)
        self.moments.append((number, piece.sum().item(), square))
        if self._by_pairs and piece.dtype == torch.float32 and piece.numel() >= _WORTH_PAIRS:
            self._count_pairs(piece)
        else:
            self._count(piece.sub(self._left).mul_(self._scale).int())

    def absorb(self, other: _Table) -> None:
        """Adds what another thread counted of the same work."""
        self.moments += other.moments
        self._single += other._single
        self._square += other._square

    def counts(self) -> Tensor:
        """What was counted, `[bins]`."""
        every = self._single
        if self._by_pairs:
            square = self._square.view(self._rows, self._rows)
            every = every + square.sum(0) + square.sum(1)
        every[-2] += every[-1]
        return every[:-1]

    def _finite(self, raw: Tensor) -> tuple[Tensor, float]:
        """The finite elements in a type that can hold their bins, and the sum of their squares."""
        exact_integers = not raw.dtype.is_floating_point and raw.dtype != torch.bool
        wide = self._wide or exact_integers or raw.dtype == torch.float64
        piece = raw.double() if wide else raw.float()
        square = sum_of_squares(piece)
        if not TINY < square < HUGE and not (square == 0 and not piece.any()):
            # float32 cannot hold it, or there is a NaN or an Inf
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


def _merged(work: Work, tables: Sequence[_Table]) -> Tensor:
    if not tables:
        return torch.zeros(2 + work.bins, dtype=torch.float64)
    for table in tables[1:]:
        tables[0].absorb(table)
    moments = sorted(tables[0].moments)  # the same sum whoever took what
    total, square = sum(total for _, total, _ in moments), sum(square for _, _, square in moments)
    return torch.cat([torch.tensor([total, square], dtype=torch.float64), tables[0].counts()])
