"""Defines `Decisions`, numbers that rank 0 decides and every rank applies after the same step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Numbers = Sequence[float]


class Decisions:
    """Queues decisions of rank 0 and delivers them on each rank.

    Rank 0 may decide at any time, from any thread. After a due step is merged, one broadcast of `size` numbers sends
    its decisions to all ranks. Every rank takes them in the training thread, after a later step has ended: the same
    numbers at the same step, even if one rank is ahead. A rank that is too early waits, but only while `size` is not 0.

    A single process takes a decision when the next step ends.

    Args:
        rank: rank of this process; rank 0 decides. None in a training with a single process.
    """

    def __init__(self, rank: int | None = None) -> None:
        self.is_decider = not rank
        """Whether this rank decides."""
        self.size = 0
        """Number of numbers that rank 0 may decide; the same on all ranks. 0: there is nothing to decide."""
        self._is_single = rank is None
        self.pending: deque[tuple[int, Callable[[], Numbers]]] = deque()
        """Pairs of a step and a function that returns the decisions after that step; none if it returns nothing."""
        # One thread appends and another pops. A deque allows this without a lock, and a lock could not be pickled.
        self._queue: deque[tuple[int, float]] = deque()

    def decide(self, *changes: tuple[int, float], step: int = -1) -> None:
        """Decides on rank 0, by pairs of an index and a positive number; does nothing on other ranks.

        In a single process the decision is taken after a step later than `step`.
        """
        if self._is_single:
            numbers = self._numbers(changes, self.size)
            self.pending.appendleft((step, lambda: numbers))  # before the entries of later steps
        elif self.is_decider:
            self._queue.extend(changes)

    def outgoing(self, size: int) -> Tensor:
        """Returns the queued decisions, `[size]` float64, and clears the queue: the largest number of each index."""
        changes = [self._queue.popleft() for _ in range(len(self._queue))]
        return torch.tensor(self._numbers(changes, size), dtype=torch.float64)

    def raise_later(self, error: Exception) -> None:
        """Raises an error at the next delivery."""

        def answer() -> Numbers:
            raise error

        self.pending.appendleft((-1, answer))

    def deliver(self, step: int) -> Iterator[Numbers]:
        """Yields the decisions of steps before this one. Raises the error of `raise_later`."""
        while self.pending and self.pending[0][0] < step:
            entry = self.pending.popleft()
            if entry[0] >= step:  # another thread has put it there meanwhile
                self.pending.appendleft(entry)
                return
            if numbers := entry[1]():
                yield numbers

    @staticmethod
    def _numbers(changes: Sequence[tuple[int, float]], size: int) -> list[float]:
        numbers = [0.0] * size
        for index, number in changes:
            numbers[index] = max(numbers[index], number)
        return numbers
