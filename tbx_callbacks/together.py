"""Several ranks as one: what each measured is merged by a thread of its own, so that training never waits for it."""

from __future__ import annotations

import hashlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from tbx_callbacks.parts import Part, Parts

logger = logging.getLogger(__name__)

_TIMEOUT = timedelta(minutes=5)
_JOIN = timedelta(seconds=60)
_meetings = itertools.count()  # of this process: the store, too, is there once for the whole process
Place = tuple[str, str]


class Together:
    """All ranks of the process group, over a gloo group of our own: no collective of the training is ever crossed.

    Each due step takes two collectives on a thread (sums, maxima) and, where tensors are spread over ranks and
    histograms are due, one in the step itself (ranges). Their size does not depend on the number of ranks. When a rank
    does not answer in time, merging ends with one warning; the training goes on.
    """

    def __init__(self, timeout: timedelta = _TIMEOUT) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=timeout)
        self._layouts: dict[Hashable, Parts] = {}
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._idle = threading.Condition()
        self._open, self._broken = 0, False
        threading.Thread(target=self._work, name="tbx_callbacks ranks", daemon=True).start()

    def lowest(self, numbers: Tensor, names: Sequence[str]) -> Tensor:
        """The smallest of each number over ranks; `names` say what the numbers belong to, and may differ by rank."""
        everyone: list[Any] = [None] * self.size
        digest = hash_of(names)
        both = torch.tensor([digest, -digest])
        dist.all_reduce(both, op=dist.ReduceOp.MAX, group=self._group)
        if int(both[0]) == -int(both[1]):
            dist.all_reduce(numbers, op=dist.ReduceOp.MIN, group=self._group)
            return numbers
        dist.all_gather_object(everyone, dict(zip(names, numbers.tolist(), strict=True)), group=self._group)
        return torch.tensor([min(held[name] for held in everyone if name in held) for name in names])

    def agree(self, tags: Sequence[str], ranges: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The ranges of all ranks' tensors together.

        Args:
            tags: of all histograms that are due, the same on every rank.
            ranges: by tag, `[2]`, of those that this rank has.
        """
        if self._broken:
            return {}
        nothing = torch.tensor([torch.inf, -torch.inf], dtype=torch.float64)
        mine = torch.stack([ranges.get(tag, nothing).to("cpu", torch.float64) for tag in tags])
        mine[:, 0].neg_()
        dist.all_reduce(mine, op=dist.ReduceOp.MAX, group=self._group)
        mine[:, 0].neg_()
        found = dict(zip(tags, mine.unbind(), strict=True))
        return {tag: found[tag].to(bounds) for tag, bounds in ranges.items()}

    def submit(self, key: Hashable, parts: Parts, then: Callable[[Parts], None]) -> None:
        """Merges the parts of a step, later; rank 0 hands the result on.

        Args:
            key: what is due at this step; every rank submits the same keys in the same order.
            parts: this rank's.
            then: takes the merged parts, on rank 0.
        """
        with self._idle:
            self._open += 1
        self._jobs.put(lambda: self._merge(key, parts, then))

    def drain(self, seconds: float) -> bool:
        """Waits until everything that was submitted is merged; whether that came to be in time."""
        with self._idle:
            return self._idle.wait_for(lambda: self._open == 0 or self._broken, timeout=seconds)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if not self._broken:
                    job()
            except Exception as error:
                self._broken = True
                logger.warning("ranks do not answer (%r): numbers that need all of them are no longer written", error)
            with self._idle:
                self._open -= 1
                self._idle.notify_all()

    def _merge(self, key: Hashable, parts: Parts, then: Callable[[Parts], None]) -> None:
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts[key] = self._layout(parts)
        places = [(tag, name) for tag, part in layout.items() for name in part.sums]
        largest = [(tag, name) for tag, part in layout.items() for name in part.maxes]
        empty = Part(None, {})
        sums = torch.tensor([parts.get(tag, empty).sums.get(name, 0.0) for tag, name in places], dtype=torch.float64)
        maxes = torch.tensor(
            [parts.get(tag, empty).maxes.get(name, -torch.inf) for tag, name in largest], dtype=torch.float64
        )
        if len(sums):
            dist.all_reduce(sums, group=self._group)
        if len(maxes):
            dist.all_reduce(maxes, op=dist.ReduceOp.MAX, group=self._group)
        if self.rank == 0:
            added = dict(zip(places, sums.tolist(), strict=True))
            most = dict(zip(largest, maxes.tolist(), strict=True))
            merged = {tag: _filled(tag, parts.get(tag, part), added, most) for tag, part in layout.items()}
            then({tag: part for tag, part in merged.items() if _known(part)})

    def _layout(self, parts: Parts) -> Parts:
        """Every rank's tags and parts, the same on all; asked for once for each kind of due step."""
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, {tag: part.shape() for tag, part in parts.items()}, group=self._group)
        layout: Parts = {}
        for held in everyone:
            for tag, part in held.items():
                known = layout.setdefault(tag, part)
                known.sums |= part.sums
                known.maxes |= part.maxes
        return layout


def join() -> Together | None:
    """All ranks that start at this moment; None when some do not, or there is only one.

    A rank that never comes must not hang the others, so they meet at the process group's store first.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    if not _all_come():
        logger.warning("some ranks do not log: numbers that need all ranks are not written")
        return None
    return Together()


def _all_come() -> bool:
    """Whether every rank is here; rank 0 decides, so that all act alike. The store is torch's own (2.4 to 2.13)."""
    store = PrefixStore(f"tbx_callbacks/{next(_meetings)}", dist.distributed_c10d._get_default_store())
    rank, size = dist.get_rank(), dist.get_world_size()
    store.set(f"here/{rank}", "1")
    if rank == 0:
        try:
            store.wait([f"here/{other}" for other in range(size)], _JOIN)
            store.set("all", "yes")
        except RuntimeError:
            store.set("all", "no")
    try:
        store.wait(["all"], 2 * _JOIN)
    except RuntimeError:
        return False
    return bool(store.get("all") == b"yes")


def hash_of(names: Sequence[str]) -> int:
    """A number that tells lists of names apart, the same in every process."""
    return int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:7], "big")


def _filled(tag: str, part: Part, added: Mapping[Place, float], most: Mapping[Place, float]) -> Part:
    sums, maxes = {name: added[tag, name] for name in part.sums}, {name: most[tag, name] for name in part.maxes}
    return Part(part.value, sums, maxes)


def _known(part: Part) -> bool:
    """Whether some rank had a number for it."""
    return not any(number == -torch.inf for number in part.maxes.values())
