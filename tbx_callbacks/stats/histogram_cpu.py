"""Counting on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbx_callbacks.stats.threads import Pieces, on_threads

_BYTES = (torch.uint8, torch.int8, torch.bool)
_TINY, _HUGE = 1e-30, 1e30  # float32 holds squares and bin widths between them
_WORTH_PAIRS = 1 << 12


def bounds(groups: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Smallest and largest finite element of each group of flat tensors, `[2]`; `(inf, -inf)` where there is none."""
    found = torch.tensor([[math.inf, -math.inf]], dtype=torch.float64).repeat(len(groups), 1)
    for parts in on_threads(lambda pieces: [(place, *_bounds(piece)) for place, _, piece in pieces], Pieces(groups)):
        for place, low, high in parts:
            both = found[place]
            both[0], both[1] = min(both[0].item(), low), max(both[1].item(), high)
    return list(found.unbind())


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
    return _TINY < work.bins / work.width < _HUGE and work.width <= _HUGE


def count(works: Sequence[Work]) -> list[Tensor]:
    """Counts all of them; for each one `[2 + bins]` float64: the sum, the sum of squares and the counts."""

    def some(pieces: Pieces) -> list[_Table]:
        scratch = _Scratch(pieces.largest)
        tables: list[_Table] = []
        for place, number, piece in pieces:
            if not tables or tables[-1].place != place:
                tables.append(_Table(place, works[place], scratch))
            tables[-1].add(number, piece)
        return tables

    found: list[list[_Table]] = [[] for _ in works]
    for tables in on_threads(some, Pieces([work.tensors for work in works])):
        for table in tables:
            found[table.place].append(table)
    return [_merged(work, tables) for work, tables in zip(works, found, strict=True)]


class _Scratch:
    """Working copies of one piece: scaled elements, their bins, and the bins of two elements in one number."""

    def __init__(self, elements: int) -> None:
        self.floats = torch.empty(elements)
        self.bins = torch.empty(elements, dtype=torch.int16)
        self.pairs = torch.empty(elements // 2, dtype=torch.int16)


class _Table:
    """What one thread counts of a work.

    Two elements at a time: their bins make one number, so that half as many are counted, in a square table.
    """

    def __init__(self, place: int, work: Work, scratch: _Scratch) -> None:
        self.place, self._scratch = place, scratch
        self._left, self._scale = work.left, work.bins / work.width
        self._wide = not holds_float32(work)
        self._rows = work.bins + 1  # one bin more: an element at the right edge lands there
        self._by_pairs = self._rows <= 129 and not self._wide  # a larger table would leave the cache, its size int16
        # One operator instead of two where float32 loses nothing by it: 0 is in the range, or near it.
        self._shift = torch.tensor(-work.left * self._scale) if abs(work.left) <= 2 * work.width else None
        self._single = torch.zeros(self._rows, dtype=torch.int64)
        self._square = torch.zeros(self._rows if self._by_pairs else 0, self._rows, dtype=torch.int64)
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

    def counts(self) -> Tensor:
        """What was counted, `[bins]`."""
        every = self._single + self._square.sum(0) + self._square.sum(1) if self._by_pairs else self._single
        every[-2] += every[-1]
        return every[:-1]

    def _finite(self, raw: Tensor) -> tuple[Tensor, float]:
        """The finite elements in a type that can hold their bins, and the sum of their squares."""
        exact_integers = not raw.dtype.is_floating_point and raw.dtype != torch.bool
        wide = self._wide or exact_integers or raw.dtype == torch.float64
        piece = raw.double() if wide else raw.float()
        # Not torch.dot: a BLAS adds up in few lanes, which is 3e-5 off for equal elements.
        square = (piece.square() if wide else torch.mul(piece, piece, out=self._floats(piece))).sum().item()
        if not _TINY < square < _HUGE and not (square == 0 and not piece.any()):
            # float32 cannot hold it, or there is a NaN or an Inf
            piece = piece[torch.isfinite(piece)].double()
            square = piece.square().sum().item()
        return piece, square

    def _floats(self, piece: Tensor) -> Tensor:
        return self._scratch.floats[: piece.numel()]

    def _count(self, bins: Tensor) -> None:
        self._single += torch.bincount(bins, minlength=self._rows)

    def _count_pairs(self, piece: Tensor) -> None:
        scaled, half = self._floats(piece), piece.numel() // 2
        if self._shift is not None:
            torch.add(self._shift, piece, alpha=self._scale, out=scaled)
        else:
            torch.sub(piece, self._left, out=scaled).mul_(self._scale)
        bins = self._scratch.bins[: piece.numel()].copy_(scaled)
        pairs = torch.add(bins[:half], bins[half : 2 * half], alpha=self._rows, out=self._scratch.pairs[:half])
        self._square += torch.bincount(pairs, minlength=self._rows**2).view(self._rows, self._rows)
        if 2 * half < piece.numel():
            self._count(bins[2 * half :])


def _merged(work: Work, tables: Sequence[_Table]) -> Tensor:
    moments = sorted(moment for table in tables for moment in table.moments)  # the same sum whoever took what
    counts = sum((table.counts() for table in tables), torch.zeros(work.bins, dtype=torch.int64))
    total, square = sum(total for _, total, _ in moments), sum(square for _, _, square in moments)
    return torch.cat([torch.tensor([total, square], dtype=torch.float64), counts.double()])
