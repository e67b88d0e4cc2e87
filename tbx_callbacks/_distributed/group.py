"""Rendezvous of the logging ranks and their private gloo group."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

_CONNECT = timedelta(seconds=60)
_ENDLESS = timedelta(days=30)  # a rank that evaluates alone for an hour is waited for: nothing stands still meanwhile
_SLEEP = 0.02


class GroupAbandonedError(RuntimeError):
    """This process has let go of the group."""


class GlooGroup:
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
        self._abandoned = False

    def all_reduce_sum(self, numbers: Tensor) -> None:
        """Sums over ranks."""
        self._reduce(numbers, dist.ReduceOp.SUM)

    def all_reduce_max(self, numbers: Tensor) -> None:
        """The largest over ranks."""
        self._reduce(numbers, dist.ReduceOp.MAX)

    def broadcast(self, numbers: Tensor, root: int) -> None:
        """One rank's numbers."""
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = root, 0, _ENDLESS
        self._wait(self._open().broadcast([numbers], options))

    def abandon(self) -> None:
        """Makes a collective that waits for other ranks raise; from another thread."""
        self._abandoned = True

    def close(self) -> bool:
        """Ends the connections: collectives of other ranks that wait for this one fail at once.

        Returns:
            Whether it could: where a collective of this rank is still on, freeing the group would wait for other ranks.
            Somebody has to hold this object then until the process ends.
        """
        if not self._abandoned:
            self._group = None
        return self._group is None

    def _open(self) -> Any:
        if self._abandoned or self._group is None:
            raise GroupAbandonedError("this rank has left")
        return self._group

    def _reduce(self, numbers: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        options = dist.AllreduceOptions()
        options.reduceOp, options.timeout = dist.ReduceOp(operation), _ENDLESS
        self._wait(self._open().allreduce([numbers], options))

    def _wait(self, work: dist.Work) -> None:
        """Waits in Python, not in gloo: a thread that is inside of it cannot be stopped, and breaks the exit."""
        sleep = 1e-5
        while not work.is_completed():
            if self._abandoned:
                raise GroupAbandonedError("this rank has left")
            time.sleep(sleep)
            sleep = min(1.5 * sleep, _SLEEP)
        work.wait()


logger = logging.getLogger(__name__)

_JOIN, _MOMENT = 60.0, 5.0  # seconds
_attended = [0]  # the last meeting that this process knows of: the store, too, is there once for the whole process


def rendezvous() -> GlooGroup | None:
    """A line to all ranks that start at this moment; None when some do not, or there is only one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    rank, size = dist.get_rank(), dist.get_world_size()
    # The store is torch's own (2.4 to 2.13).
    store = PrefixStore("tbx_callbacks", dist.distributed_c10d._get_default_store())
    try:
        number = _number(store, rank)
        missing = "rank 0" if number is None else _missing(PrefixStore(str(number), store), rank, size)
        if not missing:
            return GlooGroup(PrefixStore(f"{number}/line", store), rank, size)
    except RuntimeError as error:
        missing = str(error)
    logger.warning(
        "every rank must log for numbers that need all of them, but these did not come in time: %s;"
        " such numbers are not written (make the callback or TbxLoop on all ranks, not on rank 0 only)",
        missing,
    )
    return None


def patience() -> float:
    """Seconds that a step may wait for other ranks: half of what the training itself would wait."""
    device = torch.device("cpu") if "gloo" in str(dist.get_backend()) else torch.device("cuda")
    try:
        timeout: timedelta = dist.distributed_c10d._get_default_group()._get_backend(device).options._timeout
    except (RuntimeError, AttributeError):
        timeout = timedelta(minutes=10)  # torch's shortest default, NCCL's
    return timeout.total_seconds() / 2


def _number(store: Store, rank: int) -> int | None:
    """Which meeting this is. Rank 0 opens each; another rank takes the one that is open, or waits for the next."""
    if rank == 0:
        number: int = store.add("opened", 1)
        store.set(f"{number}/open", "1")
        return number
    number = store.add("opened", 0)
    known, _attended[0] = _attended[0], number
    if number > known and not store.check([f"{number}/missing"]):
        return number
    # One has passed without this rank: it is too late for it, or comes a moment before rank 0 to the next.
    if not _wait(store, [f"{number + 1}/open"], _MOMENT if number > known else _patience()):
        return None
    _attended[0] = number + 1
    return number + 1


def _missing(store: Store, rank: int, size: int) -> str:
    """Which ranks are not here, in words; rank 0 decides, so that all act alike."""
    store.set(f"here/{rank}", "1")
    if rank == 0:
        here = [f"here/{other}" for other in range(size)]
        absent = [] if _wait(store, here, _patience()) else [key[5:] for key in here if not store.check([key])]
        said = f"rank {', '.join(absent[:8])}{' and more' if absent[8:] else ''}" if absent else ""
        store.set("missing", said)
        return said
    if not _wait(store, ["missing"], _patience() + _MOMENT):
        return "rank 0"
    found: str = store.get("missing").decode()
    return found


def _patience() -> float:
    return min(_JOIN, patience())


def _wait(store: Store, keys: list[str], seconds: float) -> bool:
    """Whether all keys come in time. (The store's own wait prints warnings of torch's when they do not.)"""
    end, sleep = time.monotonic() + seconds, 0.001
    while not store.check(keys):
        if time.monotonic() > end:
            return False
        time.sleep(sleep)
        sleep = min(2 * sleep, 0.2)
    return True
