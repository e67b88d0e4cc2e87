"""Work on CPU tensors in pieces that stay in a core's cache, on as many threads as torch uses.

Each thread runs torch's operators by itself. Operators that split themselves over threads wait for the slowest of them
each time, and spin while they wait: beside other busy processes (data loading) that costs more than it gains.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

UNSPLIT = (1 << 15) - 1
"""The largest number of elements for which torch does not split an operator over threads."""
_PIECE = 1 << 19
_MOST_THREADS = 12  # working copies of a piece are all the extra memory: 5.3 MiB a thread at most
_WORTH_THREADS = 1 << 20  # to start them takes as long as 1 M elements
Result = TypeVar("Result")
Piece = tuple[int, int, Tensor]


class Pieces:
    """Pieces of flat tensors, each with the number of its group and its own; each is taken by one thread."""

    def __init__(self, groups: Sequence[Sequence[Tensor]]) -> None:
        known, elements = torch.get_num_threads(), sum(tensor.numel() for tensors in groups for tensor in tensors)
        self.threads = min(known, _MOST_THREADS) if elements >= _WORTH_THREADS else 1
        self._size = _PIECE if self.threads > 1 or known == 1 else UNSPLIT
        cut = [(index, *part) for index, tensors in enumerate(groups) for part in enumerate(self._cut(tensors))]
        self._waiting: deque[tuple[int, int, list[Tensor]]] = deque(cut)
        self.largest = max((sum(tensor.numel() for tensor in parts) for _, _, parts in cut), default=0)
        """No piece has more elements."""

    def __iter__(self) -> Iterator[Piece]:
        while True:
            try:
                index, number, parts = self._waiting.popleft()
            except IndexError:
                return
            yield index, number, parts[0] if len(parts) == 1 else torch.cat(parts)

    def _cut(self, tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Large tensors in equal pieces of about the size, small ones of one type side by side."""
        small: list[Tensor] = []
        waiting = 0
        for tensor in tensors:
            if tensor.numel() >= self._size // 16:
                wanted = tensor.numel() / self._size
                pieces = max(1, round(wanted)) if self._size == _PIECE else math.ceil(wanted)
                yield from ([piece] for piece in tensor.split(math.ceil(tensor.numel() / pieces)))
                continue
            if small and (waiting + tensor.numel() > self._size or small[0].dtype != tensor.dtype):
                yield small
                small, waiting = [], 0
            if tensor.numel():
                small.append(tensor)
                waiting += tensor.numel()
        if small:
            yield small


def on_threads(work: Callable[[Pieces], Result], pieces: Pieces) -> list[Result]:
    """What `work` returns on each of the threads that share the pieces among them."""
    if pieces.threads == 1:
        return [work(pieces)]
    known = torch.get_num_threads()

    def alone() -> Result:
        torch.get_num_threads()  # torch sets up a new thread when it is first asked, and would undo what is set before
        torch.set_num_threads(1)  # of this thread, and of those that start before it is set back
        try:
            return work(pieces)
        finally:
            torch.set_num_threads(known)

    with ThreadPoolExecutor(pieces.threads, "tbx_callbacks stats") as pool:
        return [done.result() for done in [pool.submit(alone) for _ in range(pieces.threads)]]
