"""A gloo group of our own: it crosses no collective of the training, and a process can always let go of it."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

_CONNECT = timedelta(seconds=60)
_ENDLESS = timedelta(days=30)  # a rank that evaluates alone for an hour is waited for: nothing stands still meanwhile
_SLEEP = 0.02


class LeftError(RuntimeError):
    """This process has let go of the group."""


class Line:
    """Collectives between all ranks on tensors of the CPU, each in place.

    The group is none of `torch.distributed`'s own list: `destroy_process_group` neither waits for it nor ends it.

    Args:
        store: where ranks find each other.
        rank: this one.
        size: number of ranks.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._group: Any = dist.ProcessGroupGloo(store, rank, size, _CONNECT)
        self._left = False

    def add(self, numbers: Tensor) -> None:
        """Sums over ranks."""
        self._reduce(numbers, dist.ReduceOp.SUM)

    def largest(self, numbers: Tensor) -> None:
        """The largest over ranks."""
        self._reduce(numbers, dist.ReduceOp.MAX)

    def broadcast(self, numbers: Tensor, root: int) -> None:
        """One rank's numbers."""
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = root, 0, _ENDLESS
        self._wait(self._open().broadcast([numbers], options))

    def leave(self) -> None:
        """Makes a collective that waits for other ranks raise; from another thread."""
        self._left = True

    def close(self) -> bool:
        """Ends the connections: collectives of other ranks that wait for this one fail at once.

        Returns:
            Whether it could: where a collective of this rank is still on, freeing the group would wait for other ranks.
            Somebody has to hold this object then until the process ends.
        """
        if not self._left:
            self._group = None
        return self._group is None

    def _open(self) -> Any:
        if self._left or self._group is None:
            raise LeftError("this rank has left")
        return self._group

    def _reduce(self, numbers: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        options = dist.AllreduceOptions()
        options.reduceOp, options.timeout = dist.ReduceOp(operation), _ENDLESS
        self._wait(self._open().allreduce([numbers], options))

    def _wait(self, work: dist.Work) -> None:
        """Waits in Python, not in gloo: a thread that is inside of it cannot be stopped, and breaks the exit."""
        sleep = 1e-5
        while not work.is_completed():
            if self._left:
                raise LeftError("this rank has left")
            time.sleep(sleep)
            sleep = min(1.5 * sleep, _SLEEP)
        work.wait()
