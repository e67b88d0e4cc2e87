"""Reduces the values of all ranks on a background thread, so that the training does not wait."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from tbx_callbacks._distributed.at_exit import AtExit
from tbx_callbacks._distributed.background_worker import Worker
from tbx_callbacks._distributed.collectives import END, Merger, UnmatchedError
from tbx_callbacks._distributed.decisions import Decisions, Numbers
from tbx_callbacks._distributed.group import GlooGroup, GroupAbandonedError, rendezvous, step_timeout
from tbx_callbacks._stats.checksums import hash_of
from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.host_copy import HostCopy
from tbx_callbacks._text import reason
from tbx_callbacks.metrics.values import HistogramParts, Max, Partial, Partials

logger = logging.getLogger(__name__)

_MAX_PENDING = 1000  # jobs that may wait for other ranks
_SHUTDOWN_SECONDS = 2.0
Result = TypeVar("Result")


class Reducer:
    """Reduces values over all ranks through a private gloo group, independent of the training's collectives.

    All collectives run on one thread, in the order of this rank's requests. A due step takes two: maxima and sums. If
    tensors are sharded and histograms are due, it takes a third one for ranges, and the step waits for it. The size of
    the collectives does not depend on the number of ranks. The size of the first one does not depend on the due metrics
    either. It carries the step number, so ranks that run metrics at different steps notice it before they add anything.
    A step with new tags takes a few more collectives, once.

    Decisions of rank 0 (`decisions`) take one more collective, a broadcast, while there may be any. When contact to a
    rank is lost, or ranks differ, reduction ends with one warning and the training continues.
    """

    def __init__(self, group: GlooGroup, timeout: float) -> None:
        self.rank, self.size, self.timeout = group.rank, group.size, timeout
        self._group, self._merger = group, Merger(group)
        self.decisions = Decisions(group.rank)
        self._worker = Worker("tbx_callbacks ranks", self._on_lost)
        self._broken, self._closing, self._finished = False, False, threading.Event()
        self._publishing_failed = self._warned_unmatched = False
        self._last_parts: Callable[[], Partials] = dict
        self._on_last: Callable[[Partials], None] | None = None
        self._at_exit = AtExit(self, _shutdown)
        self._at_exit.register()

    def min_reduce(self, numbers: Tensor, names: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Returns the minimum of each number over ranks, and how many ranks have one.

        The `names` identify the numbers and may differ by rank.
        """
        parts = {
            name: Partial(Max(0.0), (1.0,), (-float(number),))
            for name, number in zip(names, numbers.tolist(), strict=True)
        }
        merged: Partials = self._run_and_wait(lambda: self._merger.all_reduce("lowest", 0, parts), {})
        not_shared = [name for name, part in merged.items() if part.sums[0] < self.size]
        if not_shared and self.rank == 0:
            shown = f"{', '.join(not_shared[:3])}{f' and {len(not_shared) - 3} more' if len(not_shared) > 3 else ''}"
            logger.warning("some parameters do not exist on every rank, and count only where they exist: %s", shown)
        minima = [-merged[name].maxes[0] if name in merged else numbers[n] for n, name in enumerate(names)]
        holders = [int(merged[name].sums[0]) if name in merged else 1 for name in names]
        return torch.tensor(minima, dtype=numbers.dtype), holders

    def max_reduce(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Returns the maximum of each number over the ranks that have it; empty when ranks are lost."""
        parts = {name: Partial(Max(0.0), (), (number,)) for name, number in numbers.items()}
        maxima: dict[str, list[float]] = self._run_and_wait(lambda: self._merger.max_reduce("largest", 0, parts), {})
        return {tag: largest for tag, (largest,) in maxima.items() if largest > -torch.inf}

    def is_same(self, text: str) -> bool:
        """Whether all ranks have the same text."""
        number = hash_of([text])
        largest = self.max_reduce({"+": number, "-": -number})
        return largest.get("+") == -largest.get("-", 0.0) or not largest

    def union(self, names: Collection[str]) -> set[str]:
        """Returns the names that any rank has."""
        return {*names, *self.max_reduce(dict.fromkeys(names, 1.0))}

    def merge_ranges(self, step: int, key: Sequence[str], ranges: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Returns the ranges of histograms over the tensors of all ranks.

        Counting needs the merged ranges, so this waits for the other ranks and for this rank's device. All ranges are
        copied to the host once and back once, for each optimizer of a due step.

        Args:
            step: the step.
            key: the due metrics, the same on every rank.
            ranges: range of each histogram of this rank, `[2]`, by tag.
        """
        host_copy = HostCopy(list(ranges.values()))
        what = "\n".join(("ranges", *key))

        def function() -> dict[str, list[float]]:
            own = zip(ranges, host_copy.read(), strict=True)
            parts = {tag: Partial(HistogramParts(), (), (-low, high)) for tag, (low, high) in own}
            return self._merger.max_reduce(what, step, parts)

        maxima: dict[str, list[float]] = self._run_and_wait(function, {})
        if not maxima:
            return ranges
        merged = torch.tensor([[-maxima[tag][0], maxima[tag][1]] for tag in ranges], dtype=torch.float64)
        kinds = {(bounds.device, bounds.dtype) for bounds in ranges.values()}
        merged_by_kind = {(device, dtype): moved(merged.to(dtype), device) for device, dtype in kinds}
        return {tag: merged_by_kind[bounds.device, bounds.dtype][n] for n, (tag, bounds) in enumerate(ranges.items())}

    def submit(
        self,
        step: int,
        key: Sequence[str],
        parts: Callable[[], Partials],
        on_merged: Callable[[Partials], Callable[[], object] | None],
    ) -> None:
        """Queues the reduction of a step; rank 0 passes the result on.

        Args:
            step: the step.
            key: the due metrics of this step; every rank submits the same keys in the same order.
            parts: returns the partial values of this rank; may wait for a device.
            on_merged: receives the merged values on rank 0; empty when ranks are lost. May return a function that waits
                until rank 0 has decided about them.
        """
        if self._closing:
            if self.rank == 0:
                on_merged({})
            return
        decisions: Future[Numbers] | None = None
        if self.decisions.size:
            decisions = Future()
            self.decisions.pending.append((step, partial(self._await_decisions, decisions)))
        self._enqueue(partial(self._merge_step, "\n".join(key), step, parts, on_merged, decisions, self.decisions.size))

    def _merge_step(
        self,
        what: str,
        step: int,
        parts: Callable[[], Partials],
        on_merged: Callable[[Partials], Callable[[], object] | None],
        decisions: Future[Numbers] | None,
        size: int,
    ) -> None:
        """Merges a step, then sends what rank 0 decides from it to all ranks."""
        merged: Partials = {}
        received: Numbers = ()
        matched = True
        try:
            if not self._broken:
                merged = self._merger.all_reduce(what, step, parts())
        except UnmatchedError as error:
            matched = False
            self._on_unmatched(error)
        except Exception as error:
            self._on_lost(error)
            self.close()
        try:
            if self.rank == 0:
                self._publish(on_merged, merged)
            if decisions is not None and matched and not self._broken:
                numbers = self.decisions.outgoing(size)
                self._group.broadcast(numbers, 0)
                received = numbers.tolist()
        except Exception as error:
            self._on_lost(error)
            self.close()
        finally:
            if decisions is not None:
                decisions.set_result(received)

    def _publish(self, on_merged: Callable[[Partials], Callable[[], object] | None], merged: Partials) -> None:
        """Passes a merged step on. An error concerns this rank alone, so reduction goes on."""
        try:
            wait = on_merged(merged)
            if wait is not None:
                wait()
        except Exception as error:
            if not self._publishing_failed:
                self._publishing_failed = True
                logger.warning("publishing failed; the step's values are not written: %s", reason(error))

    def _await_decisions(self, decisions: Future[Numbers]) -> Numbers:
        """Waits for the decisions of a step, at most as long as a step may wait for other ranks."""
        try:
            return decisions.result(self.timeout)
        except LateError:
            self._group.abandon()
            return ()

    def run(self, job: Callable[[], None]) -> None:
        """Runs a local job after all submitted steps are merged."""
        if self._closing:
            job()
        else:
            self._enqueue(job)

    def drain(self, seconds: float) -> bool:
        """Waits until all submitted steps are merged; returns whether this happened in time."""
        return self._worker.drain(seconds)

    def withdraw(self, error: BaseException) -> None:
        """Leaves after the steps submitted so far, because this rank cannot contribute to the next one."""
        if not self._closing:
            self._enqueue(lambda: self._on_lost(error))
            self.close()

    def close(self) -> None:
        """Announces the end of this rank without waiting; nothing may be submitted afterwards."""
        if not self._closing:
            self._closing = True
            self._enqueue(self._goodbye)
            self._worker.close()

    def finish(self, parts: Callable[[], Partials], on_merged: Callable[[Partials], None], seconds: float) -> bool:
        """Closes, and merges last values with those of the ranks that end too.

        Args:
            parts: returns the partial values of this rank; may wait for a device.
            on_merged: receives the merged values on rank 0.
            seconds: longest time that rank 0 waits for the other ranks.

        Returns:
            Whether rank 0 has received them; always True on other ranks, and if reduction has ended with a warning.
        """
        if self._closing or self._broken:
            return True
        self._last_parts, self._on_last = parts, on_merged
        self.close()
        return self.rank != 0 or (self._finished.wait(seconds) and self._on_last is None)

    def shutdown(self, seconds: float) -> None:
        """Ends the thread, even if it waits for other ranks."""
        self.close()
        if not self._finished.wait(seconds):
            self._group.abandon()
            self._finished.wait(_SHUTDOWN_SECONDS)

    # -- background thread -----------------------------------------------------------------------------------------

    def _enqueue(self, job: Callable[[], None]) -> None:
        self._worker.submit(job)
        if self._worker.pending > _MAX_PENDING:
            self._group.abandon()

    def _run_and_wait(self, function: Callable[[], Result], default: Result) -> Result:
        """Runs a function on the thread and waits for its result, half as long as the training would wait for ranks."""
        results: queue.SimpleQueue[Result] = queue.SimpleQueue()

        def job() -> None:
            result = default
            try:
                result = default if self._broken else function()
            except UnmatchedError as error:
                self._on_unmatched(error)
            except Exception as error:
                self._on_lost(error)
            results.put(result)

        if self._closing or self._broken:
            return default
        self._enqueue(job)
        try:
            return results.get(timeout=self.timeout)
        except queue.Empty:
            self._group.abandon()
            return default

    def _on_lost(self, error: BaseException) -> None:
        if not self._broken:
            self._broken = True
            logger.warning(
                "cross-rank metrics disabled for the rest of this run: lost contact with other ranks (%s)", error
            )

    def _on_unmatched(self, error: UnmatchedError) -> None:
        """Leaves out a step that this rank has and others do not; the first time with a warning of rank 0."""
        if self.rank == 0 and not self._warned_unmatched:
            self._warned_unmatched = True
            logger.warning(
                "%s; use the same set, cadences, log_every and number of calls of end_step on all ranks", error
            )

    def _goodbye(self) -> None:
        """Tells ranks that still run metrics that this rank has ended; ended ranks meet in this collective."""
        try:
            if not self._broken:
                merged = self._merger.all_reduce("goodbye", END, self._last_parts())
                if self.rank == 0 and self._on_last is not None:
                    self._publish(self._on_last, merged)
                self._on_last = None
        except (RuntimeError, GroupAbandonedError):
            self._broken = True
        must_keep_group = not self._group.close()
        self._at_exit.cancel()
        self._finished.set()
        if must_keep_group:
            threading.Event().wait()  # forever: the daemon thread must keep the group until the process ends


def join(process_group: Any = None) -> Reducer | None:
    """Returns a reducer over all ranks that start a run now; None if some do not come, or with a single rank.

    Args:
        process_group: the ranks that train; all ranks if None.
    """
    group = rendezvous(process_group)
    return None if group is None else Reducer(group, step_timeout(process_group))


def _shutdown(reducer: Reducer) -> None:
    reducer.shutdown(_SHUTDOWN_SECONDS)
