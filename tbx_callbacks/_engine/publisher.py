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
        if waits or self._jobs.open:
            self._jobs.do(job)
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
    for on a thread too. `decisions` are those of this training.
    """

    def __init__(self, sink: Writer) -> None:
        self.sink = sink
        self.ranks: Reducer | None = None
        self.decisions = Messages()
        self.watch: LiveRules | None = None
        self.held: tuple[int, StepValues, Sequence[str] | None] | None = None
        """The measured step that waits, its batch and what was due at it."""
        self._sent = -1  # other ranks are asked once for a step
        self._last: dict[str, tuple[int, FinalValue]] = {}
        self._writing, self._behind = threading.Lock(), OrderedQueue()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_writing": None, "_behind": None, "ranks": None, "watch": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _writing=threading.Lock(), _behind=OrderedQueue())

    def last(self, tag: str) -> FinalValue | None:
        """What was written last under a tag."""
        return self._last.get(tag, (0, None))[1]

    def batch(self, step: int, key: Sequence[str] | None = None) -> StepValues:
        """The batch of a step, to be filled and held; that of an earlier step is published first.

        Args:
            step: the step.
            key: what is due at it, the same on all ranks; None: the batch is this rank's own.
        """
        if self.held is None or self.held[0] != step:
            self.publish()
            self.held = step, StepValues(), None
        if self.held[2] is None and step != self._sent:
            self.held = (*self.held[:2], key)
        return self.held[1]

    def publish(self, facts: StepInfo | None = None) -> None:
        """Hands the held step to the sink. `facts` are numbers that the trainer gave for it, as `clip_factor`."""
        if self.held is not None:
            (step, batch, key), self.held = self.held, None
            self._send(step, batch, key, facts or {})

    def publish_with(self, step: int, own: StepValues, facts: StepInfo | None = None) -> None:
        """Hands numbers that no other rank shares to the sink, together with the held step if it is the same."""
        if self.held is not None and self.held[0] == step:
            self.held[1].take_own(own)
            self.publish(facts)
        else:
            self.publish()
            pending = own.fetch()
            self._run(lambda: self._write(step, own.finish(pending.parts(), {})), waits=pending.waits)

    def rendezvous(self, ranks: Reducer | None) -> None:
        """A run begins, with these ranks."""
        self.part()
        self.watched_by(None)
        self.ranks, self._sent = ranks, -1
        self.decisions = Messages() if ranks is None else ranks.decisions

    def watched_by(self, watch: LiveRules | None) -> None:
        """Rules watch what is written from now on; or no longer."""
        if self.watch is not None:
            self.watch.drop()
        self.watch = watch

    def judge_last(self, step: int, seconds: float) -> None:
        """The run has ended: rules are asked for the last time, for so long at most."""
        if self.watch is not None:
            self.watch.close(step, seconds)
            self.watch = None

    def part(self) -> None:
        """Nothing more is merged with other ranks."""
        if self.ranks is not None:
            self.ranks.close()
            self.ranks = None

    def drain(self, seconds: float) -> bool:
        """Writes what is merged with other ranks, as far as they answer in time, which is returned; then parts.

        What waits for a device is waited for: without it there is no end of the training either.
        """
        self.catch_up()
        self._behind.close()
        answered = self.ranks is None or self.ranks.drain(seconds)
        if self.ranks is not None and not answered:
            self.ranks.let_go(0.0)
        self.part()
        return answered

    def catch_up(self) -> None:
        """Writes what waits for a device."""
        self._behind.drain(_DEVICE)

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes a batch, behind those that wait for a device or for other ranks."""
        self._run(lambda: self._write(step, values))

    def _write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes a batch, less what was written of this step before: the trainer logs some numbers (epoch) twice."""
        with self._writing:
            new = {tag: value for tag, value in values.items() if self._last.get(tag) != (step, value)}
            self._last.update({tag: (step, value) for tag, value in new.items()})
            if new:
                self.sink.write(step, new)
                if self.watch is not None:
                    self.watch.take(step, new)

    def _send(self, step: int, batch: StepValues, key: Sequence[str] | None, facts: StepInfo) -> None:
        watch = self.watch if key is not None and self.watch is not None and self.watch.due(step) else None

        def finish(parts: Partials) -> Callable[[], None] | None:
            self._write(step, batch.finish(parts, facts))
            return watch.judge(step) if watch is not None else None

        if self.ranks is None or key is None:
            pending = batch.fetch()
            self._run(partial(self._judged, step, finish, pending), waits=pending.waits)
            return
        self._sent = step
        try:
            pending = batch.fetch()
        except Exception as error:
            self.ranks.leave(error)
            raise
        self.ranks.submit(step, key, pending.parts, finish)

    def _run(self, job: Callable[[], None], *, waits: bool = False) -> None:
        """Does something when all that was published before is written."""
        if self.ranks is not None:
            self.ranks.run(job)
        else:
            self._behind.run(job, waits=waits)

    def _judged(
        self, step: int, finish: Callable[[Partials], Callable[[], None] | None], pending: PackedValues
    ) -> None:
        """Writes a step. Rules that were asked about one that no device is behind with have decided a step later."""
        wait = finish(pending.parts())
        if wait is not None and not pending.waits:

            def decided() -> Sequence[Message]:
                wait()
                return ()

            self.decisions.awaited.append((step, decided))
