"""Several ranks as one: what each measured is merged by a thread of its own, so that training never waits for it."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from tbx_callbacks._distributed.group import GlooGroup, GroupAbandonedError, patience, rendezvous
from tbx_callbacks._distributed.merge import END, Merger
from tbx_callbacks._distributed.messages import Message, Messages, incoming, without_messages
from tbx_callbacks._distributed.packing import Partial, Partials
from tbx_callbacks._distributed.worker import Worker
from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.host_copy import HostCopy

logger = logging.getLogger(__name__)

_WAITING = 1000  # steps that may wait for other ranks
_GOODBYE = 2.0  # seconds
_DECIDED = "decided"
Result = TypeVar("Result")


class Reducer:
    """All ranks of the process group, over a gloo group of our own: no collective of the training is ever crossed.

    All collectives run on one thread, in the order in which this rank asks for them. A due step takes two (maxima,
    sums) and, where tensors are spread over ranks and histograms are due, one more, for which the step waits (ranges).
    Their size depends neither on the number of ranks nor, for the first, on what is due: it says which step this is,
    so ranks that do not measure the same steps find out before they add anything up. A step whose tags are new takes
    some more, once. What rank 0 decides (`decisions`) takes one more as well, or travels with the next due step where
    there are three already. When ranks are lost or apart, merging ends with one warning; the training goes on.
    """

    def __init__(self, line: GlooGroup, timeout: float) -> None:
        self.rank, self.size = line.rank, line.size
        self._group, self._timeout, self._merger = line, timeout, Merger(line)
        self.messages = Messages(line.rank)
        self._ranged = -1  # the last step of which ranges were asked
        self._worker = Worker("tbx_callbacks ranks", self._lost)
        self._broken, self._closing, self._over = False, False, threading.Event()
        atexit.register(_let_go, weakref.ref(self))

    def min_reduce(self, numbers: Tensor, names: Sequence[str]) -> Tensor:
        """The smallest of each number over ranks; `names` say what the numbers belong to, and may differ by rank."""
        parts = {
            name: Partial(None, {"ranks": 1.0}, {"number": -float(number)})
            for name, number in zip(names, numbers.tolist(), strict=True)
        }
        merged: Partials = self._ask(lambda: self._merger.all_reduce("lowest", 0, parts), {})
        some = [name for name, part in merged.items() if part.sums["ranks"] < self.size]
        if some and self.rank == 0:
            shown = f"{', '.join(some[:3])}{f' and {len(some) - 3} more' if len(some) > 3 else ''}"
            logger.warning("ranks hold different parameters; not on every rank: %s; each counts where it is", shown)
        found = [-merged[name].maxes["number"] if name in merged else numbers[n] for n, name in enumerate(names)]
        return torch.tensor(found, dtype=numbers.dtype)

    def max_reduce(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The largest of each number over the ranks that have it; nothing when ranks are lost."""
        parts = {name: Partial(None, {}, {"number": number}) for name, number in numbers.items()}
        most: dict[str, dict[str, float]] = self._ask(lambda: self._merger.max_reduce("largest", 0, parts), {})
        return {tag: numbers["number"] for tag, numbers in most.items() if numbers["number"] > -torch.inf}

    def union(self, names: Collection[str]) -> set[str]:
        """The names that any rank has."""
        return {*names, *self.max_reduce(dict.fromkeys(names, 1.0))}

    def merge_ranges(self, step: int, key: Sequence[str], ranges: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The ranges of all ranks' tensors together.

        What they are of is counted with them next, so this waits for the other ranks, and for a device that works on
        this rank's: all come to the host in one copy and go back in one, once for each optimizer of a due step.

        Args:
            step: the step.
            key: what is due, the same on every rank.
            ranges: by tag, `[2]`, of the histograms that this rank has.
        """
        fetch = HostCopy([], list(ranges.values()))
        what, self._ranged = "\n".join(("ranges", *key)), step

        def question() -> dict[str, dict[str, float]]:
            here = zip(ranges, fetch.read()[1], strict=True)
            parts = {tag: Partial(None, {}, {"low": -low, "high": high}) for tag, (low, high) in here}
            return self._merger.max_reduce(what, step, parts)

        most: dict[str, dict[str, float]] = self._ask(question, {})
        if not most:
            return ranges
        found = torch.tensor([[-most[tag]["low"], most[tag]["high"]] for tag in ranges], dtype=torch.float64)
        owning_ranks = {(bounds.device, bounds.dtype) for bounds in ranges.values()}
        there = {(device, dtype): moved(found.to(dtype), device) for device, dtype in owning_ranks}
        return {tag: there[bounds.device, bounds.dtype][n] for n, (tag, bounds) in enumerate(ranges.items())}

    def submit(
        self,
        step: int,
        key: Sequence[str],
        parts: Callable[[], Partials],
        then: Callable[[Partials], Callable[[], None] | None],
    ) -> None:
        """Merges the parts of a step, later; rank 0 hands the result on.

        Args:
            step: the step.
            key: what is due at this step; every rank submits the same keys in the same order.
            parts: gives this rank's; may wait for a device.
            then: takes the merged parts, on rank 0; none when ranks are lost. May return what waits until rank 0 has
                decided what there is to decide about them.
        """
        if self._closing:
            if self.rank == 0:
                then({})
            return
        told: Future[Sequence[Message]] | None = None
        if self.messages.has_subscribers:
            told = Future()
            self.messages.pending.append((step, partial(self._answer, told)))
        self._put(partial(self._submitted, "\n".join(key), step, parts, then, told, ranged=step == self._ranged))

    def _submitted(
        self,
        what: str,
        step: int,
        parts: Callable[[], Partials],
        then: Callable[[Partials], Callable[[], None] | None],
        told: Future[Sequence[Message]] | None,
        *,
        ranged: bool,
    ) -> None:
        """Merges a step and tells what is decided: on it, or, when ranges have taken the third collective, before."""
        merged: Partials = {}
        decided: Sequence[Message] = ()
        try:
            if not self._broken:
                riding = self.messages.outgoing() if told is not None and ranged else {}
                merged = self._merger.all_reduce(what, step, {**parts(), **riding})
                decided = incoming({tag: part.maxes for tag, part in merged.items()})
        except Exception as error:
            self._lost(error)
            self.close()
        try:
            wait = then(without_messages(merged)) if self.rank == 0 else None
            if wait is not None:
                wait()
            if told is not None and not ranged and not self._broken:
                decided = incoming(self._merger.max_reduce(_DECIDED, step, self.messages.outgoing()))
        except Exception as error:
            self._lost(error)
            self.close()
        finally:
            if told is not None:
                told.set_result(decided)

    def _answer(self, told: Future[Sequence[Message]]) -> Sequence[Message]:
        """Waits for what is decided, no longer than a step may wait for other ranks."""
        try:
            return told.result(self._timeout)
        except LateError:
            self._group.abandon()
            return ()

    def run(self, job: Callable[[], None]) -> None:
        """Does something of this rank's own when all that was submitted is merged."""
        if self._closing:
            job()
        else:
            self._put(job)

    def drain(self, seconds: float) -> bool:
        """Waits until everything that was submitted is merged; whether that came to be in time."""
        return self._worker.drain(seconds)

    def withdraw(self, error: BaseException) -> None:
        """This rank cannot say what the others wait for: they are told after what was submitted before."""
        if not self._closing:
            self._put(lambda: self._lost(error))
            self.close()

    def close(self) -> None:
        """Says goodbye, without waiting for it; nothing may be asked or submitted after it."""
        if not self._closing:
            self._closing = True
            self._put(self._goodbye)
            self._worker.close()

    def shutdown(self, seconds: float) -> None:
        """Ends the thread, even where it waits for other ranks."""
        self.close()
        if not self._over.wait(seconds):
            self._group.abandon()
            self._over.wait(_GOODBYE)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _put(self, job: Callable[[], None]) -> None:
        self._worker.submit(job)
        if self._worker.pending > _WAITING:
            self._group.abandon()

    def _ask(self, question: Callable[[], Result], otherwise: Result) -> Result:
        """Asks in the thread and waits for the answer, half as long as the training would wait for other ranks."""
        answers: queue.SimpleQueue[Result] = queue.SimpleQueue()

        def job() -> None:
            answer = otherwise
            try:
                answer = otherwise if self._broken else question()
            except Exception as error:
                self._lost(error)
            answers.put(answer)

        if self._closing or self._broken:
            return otherwise
        self._put(job)
        try:
            return answers.get(timeout=self._timeout)
        except queue.Empty:
            self._group.abandon()
            return otherwise

    def _lost(self, error: BaseException) -> None:
        if not self._broken:
            self._broken = True
            logger.warning("ranks are lost (%s): numbers that need all of them are no longer written", error)

    def _goodbye(self) -> None:
        """Ranks that measure on learn from it that this one has ended; those that have ended meet here."""
        try:
            if not self._broken:
                self._merger.max_reduce("goodbye", END, {})
        except (RuntimeError, GroupAbandonedError):
            self._broken = True
        held = not self._group.close()
        self._over.set()
        if held:
            threading.Event().wait()  # for ever: the thread, a daemon, holds the group until the process ends


def join() -> Reducer | None:
    """All ranks that start at this moment; None when some do not, or there is only one."""
    line = rendezvous()
    return None if line is None else Reducer(line, patience())


def _let_go(reference: weakref.ref[Reducer]) -> None:
    together = reference()
    if together is not None:
        together.shutdown(_GOODBYE)
