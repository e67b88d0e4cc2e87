"""Buffers a step's values until the trainer has logged, then writes them as one event."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tbx_callbacks._distributed.background_worker import Worker
from tbx_callbacks._distributed.decisions import Decisions
from tbx_callbacks._distributed.packing import Facts, PackedStep, StepValues
from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._engine.live_rules import LiveRules
from tbx_callbacks._text import reason
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.values import Partials, Value
from tbx_callbacks.tags import EARLIER, HIDDEN
from tbx_callbacks.writers.base import Writer

logger = logging.getLogger(__name__)

_MAX_QUEUED = 1000  # jobs; a longer queue blocks the training until the device catches up


_LAST_SECONDS = 5.0  # maximum wait for other ranks that have not ended yet
_THREAD_SECONDS = 1.0  # maximum wait for a thread without jobs to end
_DEVICE_TIMEOUT = 60.0  # maximum wait for the device at the end of a training, in seconds


class OrderedQueue:
    """Runs jobs on the caller's thread. A job that waits for a device, and all jobs after it, run on a worker thread.

    Without such jobs there is no thread.
    """

    def __init__(self) -> None:
        self._jobs = Worker("tbx_callbacks device", self._on_error, most=_MAX_QUEUED)
        self._warned = False
        self.drain, self.close = self._jobs.drain, self._jobs.close

    def run(self, job: Callable[[], None], *, waits: bool = False) -> None:
        """Runs a job, now or later.

        Args:
            job: the work. On the worker thread, only the first error is logged.
            waits: whether the job waits for a device.
        """
        if waits or self._jobs.pending:
            self._jobs.submit(job)
        else:
            job()

    def _on_error(self, error: BaseException) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("publishing failed; the step's values are not written: %s", reason(error))


class Publisher:
    """Buffers a step's values until the trainer has logged its own values for the step.

    With a `reducer`, values are first reduced over ranks on a worker thread. Waiting for a device also happens on a
    worker thread. `decisions` are those of this training. With `strict`, errors of values are raised.
    """

    def __init__(self, writer: Writer, *, strict: bool = False) -> None:
        self.writer, self._strict = writer, strict
        self.reducer: Reducer | None = None
        self.decisions = Decisions()
        self.live_rules: LiveRules | None = None
        self.buffered: tuple[int, StepValues, Sequence[str] | None] | None = None
        """The buffered step, its values, and the key of the metrics that were due."""
        self._last_sent_step = -1  # each step is reduced at most once
        self._last_values: dict[str, tuple[int, FinalValue]] = {}
        self._write_lock, self._queue = threading.Lock(), OrderedQueue()
        self._warned: set[str] = set()

    def new_values(self) -> StepValues:
        """Returns an object to collect values, whose errors are reported."""
        return StepValues(self._on_value_error)

    def _on_value_error(self, tag: str, error: BaseException) -> None:
        """Reports a value that cannot be computed, once for each kind of tag and of error."""
        if self._strict:
            raise error
        tag = tag.removeprefix(HIDDEN)
        kind = f"{tag.partition('/')[0]} {type(error).__name__}"
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(
                "%s is not written: its value cannot be computed; fix the metric; error: %s", tag, reason(error)
            )

    def last_value(self, tag: str) -> FinalValue | None:
        """The last value written under a tag."""
        return self._last_values.get(tag, (0, None))[1]

    def step_values(self, step: int, key: Sequence[str] | None = None, *, again: bool = False) -> StepValues:
        """The values of a step, to be filled; they stay buffered. An earlier step is published first.

        Args:
            step: the step.
            key: identifies the due metrics, the same on all ranks. None: the values belong to this rank only.
            again: whether all ranks add these values after values of the same step may have been sent.
        """
        if self.buffered is None or self.buffered[0] != step:
            self.flush()
            self.buffered = step, self.new_values(), None
        if self.buffered[2] is None and (again or step != self._last_sent_step):
            self.buffered = (*self.buffered[:2], key)
        return self.buffered[1]

    def flush(self, facts: Facts | None = None) -> None:
        """Passes the buffered step to the writer. `facts` are numbers that the trainer reported for it."""
        if self.buffered is not None:
            (step, step_values, key), self.buffered = self.buffered, None
            self._send(step, step_values, key, facts or {})

    def flush_with_logs(self, step: int, local_values: StepValues, facts: Facts | None = None) -> None:
        """Writes values that no other rank shares, together with the buffered step if it is the same step."""
        self.step_values(step).update(local_values)
        self.flush(facts)

    def start(self, reducer: Reducer | None) -> None:
        """Starts a run whose values are reduced by `reducer`; None with one rank."""
        self.close_reducer()
        self.set_live_rules(None)
        self.reducer, self._last_sent_step = reducer, -1
        self._last_values.clear()  # this run may have another folder, or repeat steps
        self.decisions = Decisions() if reducer is None else reducer.decisions

    def set_live_rules(self, live_rules: LiveRules | None) -> None:
        """Passes written values to these rules from now on; None to no rules."""
        if self.live_rules is not None:
            self.live_rules.discard()
        self.live_rules = live_rules

    def close_live_rules(self, step: int, seconds: float) -> None:
        """Evaluates the rules for the last time, for at most `seconds`."""
        if self.live_rules is not None:
            self.live_rules.close(step, seconds)
            self.live_rules = None

    def close_reducer(self) -> None:
        """Stops reducing values over ranks."""
        if self.reducer is not None:
            self.reducer.close()
            self.reducer = None

    def drain(self, seconds: float, last: tuple[int, Mapping[str, Value]] | None = None) -> bool:
        """Writes all pending values, then closes the reducer.

        The wait for the device has its own limit: a training does not end before its device does.

        Args:
            seconds: the longest wait for the other ranks.
            last: the step and this rank's part of values that ranks merge as they end.

        Returns:
            Whether the other ranks answered within `seconds`.
        """
        self.wait_for_device()
        self._queue.close(_THREAD_SECONDS)
        answered = self.reducer is None or self.reducer.drain(seconds)
        if self.reducer is not None and answered and last is not None:
            self._merge_last(self.reducer, *last)
        if self.reducer is not None and not answered:
            self.reducer.shutdown(0.0)
        self.close_reducer()
        return answered

    def _merge_last(self, reducer: Reducer, step: int, values: Mapping[str, Value]) -> None:
        step_values = self.new_values()
        step_values.add(values)
        pending = step_values.pack()
        merged = reducer.finish(
            pending.partials, lambda merged: self._write(step, step_values.finish(merged, {})), _LAST_SECONDS
        )
        if values and not merged:
            logger.warning(
                "%s of the last steps is not written: other ranks train on; end the training on all ranks together",
                min(tag.rpartition(":")[2] for tag in values),
            )

    def wait_for_device(self) -> None:
        """Writes the values that wait for a device."""
        self._queue.drain(_DEVICE_TIMEOUT)

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes values, after those that wait for a device or for other ranks."""
        self._run(lambda: self._write(step, values))

    def _write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes the values that this step has not written yet: the trainer logs some of them (epoch) twice."""
        earlier = {tag for tag in values if tag.startswith(EARLIER)}
        for tag in earlier:
            _, steps_ago, own_tag = tag.split(":", 2)
            self._write(step - int(steps_ago), {own_tag: values[tag]})
        if earlier:
            values = {tag: value for tag, value in values.items() if tag not in earlier}
        with self._write_lock:
            new = {tag: value for tag, value in values.items() if self._last_values.get(tag) != (step, value)}
            self._last_values.update({tag: (step, value) for tag, value in new.items()})
            if new:
                self.writer.write(step, new)
                if self.live_rules is not None:
                    self.live_rules.record(step, new)

    def _send(self, step: int, step_values: StepValues, key: Sequence[str] | None, facts: Facts) -> None:
        live_rules = (
            self.live_rules if key is not None and self.live_rules is not None and self.live_rules.due(step) else None
        )

        def finish(merged: Partials) -> Callable[[], object] | None:
            self._write(step, step_values.finish(merged, facts))
            return live_rules.judge(step) if live_rules is not None else None

        if self.reducer is None or key is None:
            pending = step_values.pack()
            self._run(partial(self._finish_and_judge, step, finish, pending), waits=pending.is_pending)
            return
        self._last_sent_step = step
        try:
            pending = step_values.pack()
        except Exception as error:
            self.reducer.withdraw(error)
            raise
        self.reducer.submit(step, key, pending.partials, finish)

    def _run(self, job: Callable[[], None], *, waits: bool = False) -> None:
        """Runs a job after all values published before are written."""
        if self.reducer is not None:
            self.reducer.run(job)
        else:
            self._queue.run(job, waits=waits)

    def _finish_and_judge(
        self, step: int, finish: Callable[[Partials], Callable[[], object] | None], pending: PackedStep
    ) -> None:
        """Writes a step and evaluates the rules.

        Where the values do not wait for a device, the action of the rules is available one step later.
        """
        wait = finish(pending.partials())
        if wait is not None and not pending.is_pending:
            self.decisions.pending.append((step, partial(_await_rules, wait)))


def _await_rules(wait: Callable[[], object]) -> Sequence[float]:
    """Waits until the rules are evaluated. Their decisions follow in the queue."""
    wait()
    return ()
