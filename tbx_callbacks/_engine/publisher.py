"""Buffers a step's values until the trainer has logged, then writes them as one batch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tbx_callbacks._distributed.messages import Message, Messages
from tbx_callbacks._distributed.packing import PackedValues, Partials, StepValues
from tbx_callbacks._distributed.reducer import Reducer
from tbx_callbacks._distributed.worker import Worker
from tbx_callbacks._engine.live_rules import LiveRules
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.values import StepInfo
from tbx_callbacks.writers.base import Writer

logger = logging.getLogger(__name__)

_WAITING = 1000  # jobs; a device that is so far behind is waited for


class OrderedQueue:
    """Runs jobs on the caller's thread, and those that wait for a device, with all after them, on a thread of its own.

    Without such jobs there is no thread.
    """

    def __init__(self) -> None:
        self._jobs = Worker("tbx_callbacks device", self._fail, most=_WAITING)
        self._said = False
        self.drain, self.close = self._jobs.drain, self._jobs.close

    def run(self, job: Callable[[], None], *, waits: bool = False) -> None:
        """Runs a job, now or later.

        Args:
            job: what to do; on the thread its errors are said once.
            waits: whether it waits for a device.
        """
        if waits or self._jobs.pending:
            self._jobs.submit(job)
        else:
            job()

    def _fail(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            logger.warning("publishing failed; the step's numbers are left out: %r", error)


_DEVICE = 60.0  # seconds that the end of a training waits for what a device still works on


class Publisher:
    """Holds a measured step until the trainer has said what it has to say of it.

    With several `ranks` their numbers are brought together first, on a thread; what a device still works on is waited
    for on a thread too. `messages` are those of this training.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.reducer: Reducer | None = None
        self.messages = Messages()
        self.live_rules: LiveRules | None = None
        self.buffered: tuple[int, StepValues, Sequence[str] | None] | None = None
        """The measured step that waits, its batch and what was due at it."""
        self._sent = -1  # other ranks are asked once for a step
        self._last: dict[str, tuple[int, FinalValue]] = {}
        self._writing, self._queue = threading.Lock(), OrderedQueue()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_writing": None, "_queue": None, "reducer": None, "live_rules": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _writing=threading.Lock(), _queue=OrderedQueue())

    def last_value(self, tag: str) -> FinalValue | None:
        """What was written last under a tag."""
        return self._last.get(tag, (0, None))[1]

    def step_values(self, step: int, key: Sequence[str] | None = None) -> StepValues:
        """The batch of a step, to be filled and held; that of an earlier step is published first.

        Args:
            step: the step.
            key: what is due at it, the same on all ranks; None: the batch is this rank's own.
        """
        if self.buffered is None or self.buffered[0] != step:
            self.flush()
            self.buffered = step, StepValues(), None
        if self.buffered[2] is None and step != self._sent:
            self.buffered = (*self.buffered[:2], key)
        return self.buffered[1]

    def flush(self, step_info: StepInfo | None = None) -> None:
        """Hands the held step to the sink. `step_info` are numbers that the trainer gave for it, as `clip_factor`."""
        if self.buffered is not None:
            (step, step_values, key), self.buffered = self.buffered, None
            self._send(step, step_values, key, step_info or {})

    def flush_with_logs(self, step: int, own: StepValues, step_info: StepInfo | None = None) -> None:
        """Hands numbers that no other rank shares to the sink, together with the held step if it is the same."""
        if self.buffered is not None and self.buffered[0] == step:
            self.buffered[1].merge_local(own)
            self.flush(step_info)
        else:
            self.flush()
            pending = own.pack()
            self._run(lambda: self._write(step, own.finish(pending.partials(), {})), waits=pending.is_pending)

    def start(self, ranks: Reducer | None) -> None:
        """A run begins, with these ranks."""
        self.close_reducer()
        self.set_live_rules(None)
        self.reducer, self._sent = ranks, -1
        self.messages = Messages() if ranks is None else ranks.messages

    def set_live_rules(self, live_rules: LiveRules | None) -> None:
        """Rules watch what is written from now on; or no longer."""
        if self.live_rules is not None:
            self.live_rules.discard()
        self.live_rules = live_rules

    def close_live_rules(self, step: int, seconds: float) -> None:
        """The run has ended: rules are asked for the last time, for so long at most."""
        if self.live_rules is not None:
            self.live_rules.close(step, seconds)
            self.live_rules = None

    def close_reducer(self) -> None:
        """Nothing more is merged with other ranks."""
        if self.reducer is not None:
            self.reducer.close()
            self.reducer = None

    def drain(self, seconds: float) -> bool:
        """Writes what is merged with other ranks, as far as they answer in time, which is returned; then parts.

        What waits for a device is waited for: without it there is no end of the training either.
        """
        self.wait_for_device()
        self._queue.close()
        answered = self.reducer is None or self.reducer.drain(seconds)
        if self.reducer is not None and not answered:
            self.reducer.shutdown(0.0)
        self.close_reducer()
        return answered

    def wait_for_device(self) -> None:
        """Writes what waits for a device."""
        self._queue.drain(_DEVICE)

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes a batch, behind those that wait for a device or for other ranks."""
        self._run(lambda: self._write(step, values))

    def _write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes a batch, less what was written of this step before: the trainer logs some numbers (epoch) twice."""
        with self._writing:
            new = {tag: value for tag, value in values.items() if self._last.get(tag) != (step, value)}
            self._last.update({tag: (step, value) for tag, value in new.items()})
            if new:
                self.writer.write(step, new)
                if self.live_rules is not None:
                    self.live_rules.record(step, new)

    def _send(self, step: int, step_values: StepValues, key: Sequence[str] | None, step_info: StepInfo) -> None:
        live_rules = (
            self.live_rules if key is not None and self.live_rules is not None and self.live_rules.due(step) else None
        )

        def finish(parts: Partials) -> Callable[[], None] | None:
            self._write(step, step_values.finish(parts, step_info))
            return live_rules.judge(step) if live_rules is not None else None

        if self.reducer is None or key is None:
            pending = step_values.pack()
            self._run(partial(self._judged, step, finish, pending), waits=pending.is_pending)
            return
        self._sent = step
        try:
            pending = step_values.pack()
        except Exception as error:
            self.reducer.withdraw(error)
            raise
        self.reducer.submit(step, key, pending.partials, finish)

    def _run(self, job: Callable[[], None], *, waits: bool = False) -> None:
        """Does something when all that was published before is written."""
        if self.reducer is not None:
            self.reducer.run(job)
        else:
            self._queue.run(job, waits=waits)

    def _judged(
        self, step: int, finish: Callable[[Partials], Callable[[], None] | None], pending: PackedValues
    ) -> None:
        """Writes a step. Rules that were asked about one that no device is behind with have decided a step later."""
        wait = finish(pending.partials())
        if wait is not None and not pending.is_pending:

            def decided() -> Sequence[Message]:
                wait()
                return ()

            self.messages.pending.append((step, decided))
