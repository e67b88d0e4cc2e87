"""Counting on the CPU: pieces that stay in a core's cache, on as many threads as torch uses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Just below the size at which torch splits an operator over threads: each piece is worked on by one thread, in its L2.
PIECE = (1 << 15) - 64
_WORTH_THREADS = 8 * PIECE
_BYTES = (torch.uint8, torch.int8, torch.bool)
_TINY, _HUGE = 1e-30, 1e30  # float32 holds squares and bin widths between them


def bounds(tensors: Sequence[Tensor]) -> tuple[float, float]:
    """Smallest and largest finite element of flat tensors; `(inf, -inf)` when there is none."""
    low, high = math.inf, -math.inf
    for values in tensors:
        if values.dtype.itemsize == 1 and values.dtype not in _BYTES:  # float8
            values = values.float()
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


@dataclass
class Work:
    """One histogram to count: flat tensors, the left edge, the width of the range, the number of bins."""

    tensors: Sequence[Tensor]
    left: float
    width: float
    bins: int
    parts: list[Tensor] = field(default_factory=list)
    """What each thread found: `[2 + bins]` float64, the sum, the sum of squares and the counts."""

    def pieces(self) -> Iterator[Tensor]:
        """Pieces of the tensors; small tensors are put together."""
        small: list[Tensor] = []
        waiting = 0
        for tensor in self.tensors:
            if tensor.numel() >= PIECE // 2:
                yield from tensor.split(PIECE)
                continue
            if waiting + tensor.numel() > PIECE or (small and small[0].dtype != tensor.dtype):
                yield _together(small)
                small, waiting = [], 0
            if tensor.numel():
                small.append(tensor)
                waiting += tensor.numel()
        if small:
            yield _together(small)


def holds_float32(work: Work) -> bool:
    """Whether float32 can hold the bin indices of a range: it is not very large or tiny."""
    return _TINY < work.bins / work.width < _HUGE and work.width <= _HUGE


def count(works: Sequence[Work]) -> list[Tensor]:
    """Counts all of them; for each one `[2 + bins]` float64: the sum, the sum of squares and the counts."""
    shares = _shares(works, torch.get_num_threads())
    if len(shares) == 1:
        _count_share(shares[0])
    else:
        with ThreadPoolExecutor(len(shares) - 1) as pool:
            others = [pool.submit(_count_share, share) for share in shares[1:]]
            _count_share(shares[0])
            for other in others:
                other.result()
    return [
        torch.stack(work.parts).sum(0) if work.parts else torch.zeros(2 + work.bins, dtype=torch.float64)
        for work in works
    ]


Share = list[tuple[Work, list[Tensor]]]


def _shares(works: Sequence[Work], threads: int) -> list[Share]:
    """The pieces of all works, dealt out in equal parts."""
    elements = sum(tensor.numel() for work in works for tensor in work.tensors)
    threads = threads if elements >= _WORTH_THREADS else 1
    shares: list[Share] = [[] for _ in range(threads)]
    done = 0
    for work in works:
        for piece in work.pieces():
            share = shares[min(threads - 1, done * threads // max(1, elements))]
            if not share or share[-1][0] is not work:
                share.append((work, []))
            share[-1][1].append(piece)
            done += piece.numel()
    return shares


def _count_share(share: Share) -> None:
    buffers = _Buffers()
    for work, pieces in share:
        work.parts.append(_count_pieces(work, pieces, buffers))


class _Buffers:
    """Bin indices of two pieces, and both in one number."""

    def __init__(self) -> None:
        self.first, self.second, self.both = torch.empty(3, PIECE, dtype=torch.int32).unbind()


class _Table:
    """Counts of a work's pieces.

    Two pieces at a time: their bin indices make one number, so that half as many are counted, in a square table.
    """

    def __init__(self, work: Work, buffers: _Buffers) -> None:
        self._left, self._scale = work.left, work.bins / work.width
        self.wide = not holds_float32(work)
        self._rows = work.bins + 1  # one bin more: an element at the right edge lands there
        self._by_pairs = self._rows <= 129 and not self.wide  # a larger table would leave the cache
        # One operator instead of two where float32 loses nothing by it: 0 is in the range, or near it.
        self._shift = torch.tensor(-work.left * self._scale) if abs(work.left) <= 2 * work.width else None
        self._single = torch.zeros(self._rows, dtype=torch.int64)
        self._square: Tensor | None = None
        self._buffers = buffers
        self._waiting: Tensor | None = None

    def add(self, piece: Tensor) -> None:
        """Counts a piece, perhaps later."""
        if piece.numel() < PIECE or piece.dtype != torch.float32 or not self._by_pairs:
            self._count(piece)
        elif self._waiting is None:
            self._waiting = piece
        else:
            self._count_pair(self._waiting, piece)
            self._waiting = None

    def counts(self) -> Tensor:
        """What was counted, `[bins]`."""
        if self._waiting is not None:
            self._count(self._waiting)
        if self._square is not None:
            self._single += self._square.sum(0) + self._square.sum(1)
        self._single[-2] += self._single[-1]
        return self._single[:-1]

    def _count(self, piece: Tensor) -> None:
        index = piece.sub(self._left).mul_(self._scale).int()
        self._single += torch.bincount(index, minlength=self._rows)

    def _count_pair(self, first: Tensor, second: Tensor) -> None:
        # _foreach: one call for both, and each piece is small enough to stay on this thread.
        if self._shift is not None:
            scaled = torch._foreach_add([self._shift, self._shift], [first, second], alpha=self._scale)
        else:
            scaled = torch._foreach_sub([first, second], self._left)
            torch._foreach_mul_(scaled, self._scale)
        buffers = self._buffers
        torch._foreach_copy_([buffers.first, buffers.second], scaled)
        torch.add(buffers.second, buffers.first, alpha=self._rows, out=buffers.both)
        found = torch.bincount(buffers.both, minlength=self._rows**2).view(self._rows, self._rows)
        self._square = found if self._square is None else self._square.add_(found)


def _count_pieces(work: Work, pieces: Sequence[Tensor], buffers: _Buffers) -> Tensor:
    table, total, total_squares = _Table(work, buffers), 0.0, 0.0
    for raw in pieces:
        piece, squares = _finite(raw, wide=table.wide)
        total_squares += squares
        total += piece.sum().item()
        table.add(piece)
    return torch.cat([torch.tensor([total, total_squares], dtype=torch.float64), table.counts().double()])


def _finite(raw: Tensor, *, wide: bool) -> tuple[Tensor, float]:
    """The finite elements in a type that can hold their bins, and the sum of their squares."""
    exact_integers = not raw.dtype.is_floating_point and raw.dtype != torch.bool
    piece = raw.double() if wide or exact_integers or raw.dtype == torch.float64 else raw.float()
    square = torch.dot(piece, piece).item()
    if not _TINY < square < _HUGE and not (square == 0 and not piece.any()):
        # float32 cannot hold it, or there is a NaN or an Inf
        piece = piece[torch.isfinite(piece)].double()
        square = piece.square().sum().item()
    return piece, square


def _together(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
