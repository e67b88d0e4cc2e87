"""Processes CPU tensors in pieces that stay in a core's cache, on as many threads as torch uses.

Each thread runs single-threaded torch operators. Multi-threaded operators wait for their slowest thread each time, and
spin while they wait. With other busy processes (data loading) this costs more than it gains.
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
_MOST_THREADS = 12  # the buffers for one piece are all the extra memory: at most 5.3 MiB per thread
_WORTH_THREADS = 1 << 20  # starting threads takes as long as 1 M elements
Result = TypeVar("Result")
Piece = tuple[int, int, Tensor]


class Pieces:
    """Iterates over pieces of flat tensors: (group index, piece index, tensor).

    Threads share the object; each piece goes to one thread.

    Args:
        groups: the tensors of each group.
        size: number of elements of each piece but the last one of a tensor, whatever the number of threads. By default
            pieces are as large as suits the threads.
    """

    def __init__(self, groups: Sequence[Sequence[Tensor]], *, size: int | None = None) -> None:
        torch_threads, elements = (
            torch.get_num_threads(),
            sum(tensor.numel() for tensors in groups for tensor in tensors),
        )
        self.threads = min(torch_threads, _MOST_THREADS) if elements >= _WORTH_THREADS else 1
        self._size = _PIECE if self.threads > 1 or torch_threads == 1 else UNSPLIT
        pieces = [
            (index, *part) for index, tensors in enumerate(groups) for part in enumerate(self._cut(tensors, size))
        ]
        self._queue: deque[tuple[int, int, list[Tensor]]] = deque(pieces)
        self.largest = max((sum(tensor.numel() for tensor in parts) for _, _, parts in pieces), default=0)
        """Number of elements of the largest piece."""

    def __iter__(self) -> Iterator[Piece]:
        while True:
            try:
                index, number, parts = self._queue.popleft()
            except IndexError:
                return
            yield index, number, parts[0] if len(parts) == 1 else torch.cat(parts)

    def _cut(self, tensors: Sequence[Tensor], size: int | None) -> Iterator[list[Tensor]]:
        """Splits large tensors into equal pieces of about the target size, and joins small tensors of one type."""
        if size is not None:
            yield from ([piece] for tensor in tensors for piece in tensor.split(size))
            return
        small: list[Tensor] = []
        small_elements = 0
        for tensor in tensors:
            if tensor.numel() >= self._size // 16:
                ideal_count = tensor.numel() / self._size
                pieces = max(1, round(ideal_count)) if self._size == _PIECE else math.ceil(ideal_count)
                yield from ([piece] for piece in tensor.split(math.ceil(tensor.numel() / pieces)))
                continue
            if small and (small_elements + tensor.numel() > self._size or small[0].dtype != tensor.dtype):
                yield small
                small, small_elements = [], 0
            if tensor.numel():
                small.append(tensor)
                small_elements += tensor.numel()
        if small:
            yield small


def on_threads(work: Callable[[Pieces], Result], pieces: Pieces) -> list[Result]:
    """Runs `work` on several threads that share the pieces, and returns the result of each thread."""
    if pieces.threads == 1:
        return [work(pieces)]
    torch_threads = torch.get_num_threads()

    def run_single_threaded() -> Result:
        torch.get_num_threads()  # the first call initialises a new thread, and would undo an earlier setting
        torch.set_num_threads(1)  # affects this thread, and threads that start before it is reset
        try:
            return work(pieces)
        finally:
            torch.set_num_threads(torch_threads)

    with ThreadPoolExecutor(pieces.threads, "tbx_callbacks stats") as pool:
        return [future.result() for future in [pool.submit(run_single_threaded) for _ in range(pieces.threads)]]
