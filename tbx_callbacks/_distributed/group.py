"""Connects the logging ranks through a private gloo group."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT = timedelta(seconds=60)
_COLLECTIVE_TIMEOUT = timedelta(
    days=30
)  # rank 0 may evaluate alone for an hour; the collective waits in a background thread
_MAX_SLEEP = 0.02


_JOIN_SECONDS, _GRACE_SECONDS = 60.0, 5.0
_last_rendezvous = [0]  # number of the last rendezvous that this process knows; a global, like the default store


class GroupAbandonedError(RuntimeError):
    """This process has abandoned the group."""


class GlooGroup:
    """Runs in-place collectives of all ranks on CPU tensors.

    `torch.distributed` does not know this group: `destroy_process_group` neither waits for it nor destroys it.

    Args:
        store: the store through which ranks find each other.
        rank: rank of this process.
        size: number of ranks.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._group: Any = dist.ProcessGroupGloo(store, rank, size, _CONNECT_TIMEOUT)
        self._abandoned = False

    def all_reduce_sum(self, numbers: Tensor) -> None:
        """Replaces the numbers by their sums over ranks."""
        self._reduce(numbers, dist.ReduceOp.SUM)

    def all_reduce_max(self, numbers: Tensor) -> None:
        """Replaces the numbers by their maxima over ranks."""
        self._reduce(numbers, dist.ReduceOp.MAX)

    def broadcast(self, numbers: Tensor, root: int) -> None:
        """Replaces the numbers by those of one rank."""
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = root, 0, _COLLECTIVE_TIMEOUT
        self._wait(self._open().broadcast([numbers], options))

    def abandon(self) -> None:
        """Makes a collective that waits for other ranks raise; call it from another thread."""
        self._abandoned = True

    def close(self) -> bool:
        """Closes the connections: collectives of other ranks that wait for this one fail at once.

        Returns:
            Whether the group was closed. While a collective of this rank is running, freeing the group would wait for
            other ranks. The caller must then keep this object until the process ends.
        """
        if not self._abandoned:
            self._group = None
        return self._group is None

    def _open(self) -> Any:
        if self._abandoned or self._group is None:
            raise GroupAbandonedError("this rank abandoned the group")
        return self._group

    def _reduce(self, numbers: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        options = dist.AllreduceOptions()
        options.reduceOp, options.timeout = dist.ReduceOp(operation), _COLLECTIVE_TIMEOUT
        self._wait(self._open().allreduce([numbers], options))

    def _wait(self, work: dist.Work) -> None:
        """Waits in Python, not in gloo: a thread that waits inside gloo cannot be stopped and breaks the exit."""
        sleep = 1e-5
        while not work.is_completed():
            if self._abandoned:
                raise GroupAbandonedError("this rank abandoned the group")
            time.sleep(sleep)
            sleep = min(1.5 * sleep, _MAX_SLEEP)
        work.wait()


def rendezvous() -> GlooGroup | None:
    """Returns a group of all ranks that start a run now; None if some do not come, or with a single rank."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    rank, size = dist.get_rank(), dist.get_world_size()
    # A private function of torch (2.4 to 2.13).
    store = PrefixStore("tbx_callbacks", dist.distributed_c10d._get_default_store())
    try:
        number = _rendezvous_number(store, rank)
        missing = "rank 0" if number is None else _missing_ranks(PrefixStore(str(number), store), rank, size)
        if not missing:
            return GlooGroup(PrefixStore(f"{number}/line", store), rank, size)
    except RuntimeError as error:
        missing = str(error)
    logger.warning(
        "cross-rank metrics disabled: some ranks did not join in time (%s);"
        " create the callback or TbxLoop on every rank, not only on rank 0",
        missing,
    )
    return None


def step_timeout() -> float:
    """Returns the seconds that a step may wait for other ranks: half of the training's own collective timeout."""
    device = torch.device("cpu") if "gloo" in str(dist.get_backend()) else torch.device("cuda")
    try:
        timeout: timedelta = dist.distributed_c10d._get_default_group()._get_backend(device).options._timeout
    except (RuntimeError, AttributeError):
        timeout = timedelta(minutes=10)  # NCCL's default, the shortest of torch
    return timeout.total_seconds() / 2


def _rendezvous_number(store: Store, rank: int) -> int | None:
    """Returns the number of this rendezvous, or None if rank 0 does not open one in time.

    Rank 0 opens each rendezvous. Another rank joins the open one, or waits for the next.
    """
    if rank == 0:
        number: int = store.add("opened", 1)
        store.set(f"{number}/open", "1")
        return number
    number = store.add("opened", 0)
    previous, _last_rendezvous[0] = _last_rendezvous[0], number
    if number > previous and not store.check([f"{number}/missing"]):
        return number
    # A rendezvous ended without this rank. It is either too late, or slightly ahead of rank 0 for the next one.
    if not _wait(store, [f"{number + 1}/open"], _GRACE_SECONDS if number > previous else _join_timeout()):
        return None
    _last_rendezvous[0] = number + 1
    return number + 1


def _missing_ranks(store: Store, rank: int, size: int) -> str:
    """Returns the absent ranks as text, empty if none; rank 0 decides, so that all ranks do the same."""
    store.set(f"here/{rank}", "1")
    if rank == 0:
        keys = [f"here/{other}" for other in range(size)]
        absent = [] if _wait(store, keys, _join_timeout()) else [key[5:] for key in keys if not store.check([key])]
        text = f"rank {', '.join(absent[:8])}{' and more' if absent[8:] else ''}" if absent else ""
        store.set("missing", text)
        return text
    if not _wait(store, ["missing"], _join_timeout() + _GRACE_SECONDS):
        return "rank 0"
    decision: str = store.get("missing").decode()
    return decision


def _join_timeout() -> float:
    return min(_JOIN_SECONDS, step_timeout())


def _wait(store: Store, keys: list[str], seconds: float) -> bool:
    """Returns whether all keys appear in time. (The store's own `wait` prints torch's warnings if they do not.)"""
    end, sleep = time.monotonic() + seconds, 0.001
    while not store.check(keys):
        if time.monotonic() > end:
            return False
        time.sleep(sleep)
        sleep = min(2 * sleep, 0.2)
    return True
