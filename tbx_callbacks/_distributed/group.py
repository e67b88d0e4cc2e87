"""Connects the logging ranks through a private gloo group."""

from __future__ import annotations

import logging
import queue
import threading
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore, PrefixStore, Store  # type: ignore[attr-defined]

from tbx_callbacks._distributed.rank import in_group

logger = logging.getLogger(__name__)

_COLLECTIVE_TIMEOUT = timedelta(
    days=30
)  # rank 0 may evaluate alone for an hour; the collective waits in a background thread
_MAX_SLEEP = 0.02
_JOIN_SECONDS, _GRACE_SECONDS = 60.0, 5.0


class GroupAbandonedError(RuntimeError):
    """This process has abandoned the group."""


class GlooGroup:
    """Runs in-place collectives of all ranks on CPU tensors.

    `torch.distributed` does not know this group: `destroy_process_group` neither waits for it nor destroys it.

    Args:
        store: the store through which ranks find each other.
        rank: rank of this process.
        size: number of ranks.
        seconds: longest time to connect.

    Raises:
        RuntimeError: a rank cannot connect.
    """

    def __init__(self, store: Store, rank: int, size: int, seconds: float) -> None:
        self.rank, self.size = rank, size
        self._group = _connect(store, rank, size, seconds)
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


def rendezvous(process_group: Any = None) -> GlooGroup | None:
    """Returns a group of all ranks that start a run now; None if some do not come, or with a single rank.

    All waits together take at most half of the training's own timeout, so that no rank of the training gives up.

    Args:
        process_group: the ranks that train; all ranks if None.
    """
    if not in_group(process_group):
        return None
    rank, size = dist.get_rank(process_group), dist.get_world_size(process_group)
    # A private function of torch (2.4 to 2.13).
    store = PrefixStore(f"tbx_callbacks{_suffix(process_group)}", dist.distributed_c10d._get_default_store())
    timeout = step_timeout(process_group)
    join, deadline = min(_JOIN_SECONDS, 0.75 * timeout), time.monotonic() + timeout
    remedy = "create the callback or TbxLoop on every rank, or pass process_group= with the ranks that train"
    try:
        number = _rendezvous_number(store, rank, join)
        meeting, line = PrefixStore(f"{number}", store), PrefixStore(f"{number}/line", store)
        missing = "rank 0" if number is None else _missing_ranks(meeting, rank, size, join, deadline)
        if not missing:
            return GlooGroup(line, rank, size, max(1.0, min(_JOIN_SECONDS, deadline - time.monotonic())))
        if number is not None and rank and missing == "rank 0":
            line.set("failure", f"rank {rank} waits no longer")  # rank 0 may still decide that all ranks are there
        reason = missing if _UNABLE in missing else f"some ranks did not join in time ({missing})"
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
    if _UNABLE in reason:
        remedy = "set GLOO_SOCKET_IFNAME to a network interface of this machine"
    logger.warning("cross-rank metrics disabled: %s; %s", reason, remedy)
    return None


def step_timeout(process_group: Any = None) -> float:
    """Returns the seconds that a step may wait for other ranks: half of the training's own collective timeout."""
    device = torch.device("cpu") if "gloo" in str(dist.get_backend(process_group)) else torch.device("cuda")
    try:
        group = process_group or dist.distributed_c10d._get_default_group()
        timeout: timedelta = group._get_backend(device).options._timeout
    except (RuntimeError, AttributeError):
        timeout = timedelta(minutes=10)  # NCCL's default, the shortest of torch
    return timeout.total_seconds() / 2


_UNABLE = "cannot open a connection"


def _connect(store: Store, rank: int, size: int, seconds: float) -> Any:
    """Connects all ranks. A rank that cannot connect tells the others, which then stop at once.

    gloo waits for other ranks inside its constructor, which nothing can stop. So it runs on another thread.
    """
    connected: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            connected.put(dist.ProcessGroupGloo(store, rank, size, timedelta(seconds=seconds)))
        except Exception as error:
            connected.put(error)

    threading.Thread(target=connect, name="tbx_callbacks connect", daemon=True).start()
    while True:
        try:
            group = connected.get(timeout=0.05)
        except queue.Empty:
            if store.check(["failure"]):
                raise RuntimeError(store.get("failure").decode()) from None
            continue
        if isinstance(group, Exception):
            failure = f"rank {rank} {_UNABLE} ({_first_line(group)})"
            store.set("failure", failure)
            raise RuntimeError(failure) from group
        return group


def _failure_alone() -> str:
    """Returns the reason why this rank can open no connection at all; empty if it can."""
    try:
        dist.ProcessGroupGloo(HashStore(), 0, 1, timedelta(seconds=1))
    except Exception as error:
        return f"{_UNABLE} ({_first_line(error)})"
    return ""


def _first_line(error: Exception) -> str:
    """Returns the reason in gloo's error, without its place in gloo's source."""
    return str(error).partition("\n")[0].rpartition("] ")[2][:120]


def _suffix(process_group: Any) -> str:
    """Returns a text that identifies the ranks of a group on all of them."""
    return "" if process_group is None else " " + ",".join(map(str, dist.get_process_group_ranks(process_group)))


def _rendezvous_number(store: Store, rank: int, join: float) -> int | None:
    """Returns the number of this rendezvous, or None if rank 0 does not open one in time.

    Rank 0 opens each rendezvous. Another rank joins the open one, or waits for the next. The store alone remembers
    earlier ones: it ends with the training's process group, or lasts longer, as that of torchrun does.
    """
    if rank == 0:
        number: int = store.add("opened", 1)
        store.set(f"{number}/open", "1")
        return number
    number = store.add("opened", 0)
    took_part = not number or store.check([f"{number}/here/{rank}"])
    if not took_part and not store.check([f"{number}/missing"]):
        return number
    # A rendezvous that ended without this rank: it is either too late, or slightly ahead of rank 0 for the next one.
    return number + 1 if _wait(store, [f"{number + 1}/open"], join if took_part else _GRACE_SECONDS) else None


def _missing_ranks(store: Store, rank: int, size: int, join: float, deadline: float) -> str:
    """Returns the ranks that are absent or unable to connect as text, empty if none.

    Rank 0 decides, so that all ranks do the same.
    """
    store.set(f"here/{rank}", _failure_alone())
    if rank == 0:
        keys = [f"here/{other}" for other in range(size)]
        absent = [] if _wait(store, keys, join) else [key[5:] for key in keys if not store.check([key])]
        text = f"rank {', '.join(absent[:8])}{' and more' if absent[8:] else ''}" if absent else ""
        unable = [] if absent else [f"rank {n} {why}" for n, key in enumerate(keys) if (why := store.get(key).decode())]
        store.set("missing", text or "".join(unable[:1]))
        return text or "".join(unable[:1])
    if not _wait(store, ["missing"], min(join + _GRACE_SECONDS, deadline - time.monotonic())):
        return "rank 0"
    decision: str = store.get("missing").decode()
    return decision


def _wait(store: Store, keys: list[str], seconds: float) -> bool:
    """Returns whether all keys appear in time. (The store's own `wait` prints torch's warnings if they do not.)"""
    end, sleep = time.monotonic() + seconds, 0.001
    while not store.check(keys):
        if time.monotonic() > end:
            return False
        time.sleep(sleep)
        sleep = min(2 * sleep, 0.2)
    return True
