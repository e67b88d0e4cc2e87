"""When rules are asked in a run, and when what they decide is done: on all ranks at the same step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Protocol

from tbx_callbacks.live.settings import Live
from tbx_callbacks.live.watcher import Watcher, Write
from tbx_callbacks.parts import Finished
from tbx_callbacks.schedule import Schedule
from tbx_callbacks.verdict import Verdict

Answer = Callable[["Future[Verdict]"], Verdict]


class Ranks(Protocol):
    """All ranks of a training."""

    def answer(self, verdict: Future[Verdict]) -> Verdict:
        """Waits for a verdict, as long as a step may wait for other ranks."""


class Watch:
    """A rank's part in it: rank 0 has a watcher, the others wait for its verdict.

    Rules are asked when a step is published at which `schedule` is due, or has been since they were asked last. What
    they decide is done when the next step is finished, on every rank: a rank that gets there before the verdict waits
    for it. Nothing is waited for where no rule can stop the training or ask for a checkpoint.

    Args:
        schedule: the steps.
        watcher: on rank 0.
        answer: waits for a verdict, if one is to be waited for.
    """

    def __init__(self, schedule: Schedule, *, watcher: Watcher | None, answer: Answer | None) -> None:
        self._schedule, self._checked = schedule, 0
        self.watcher = watcher
        self._answer = answer
        self.awaited: deque[tuple[int, Future[Verdict]]] = deque()
        """Verdicts that are to come, by the step that they are on; empty when `verdict` has nothing to say."""

    @property
    def decides(self) -> bool:
        """Whether verdicts are waited for."""
        return self._answer is not None

    def due(self, step: int) -> bool:
        """Whether rules are asked about a step that is published; once for each, the same on all ranks."""
        due = self._schedule(step) or any(map(self._schedule, range(self._checked + 1, step)))
        self._checked = step
        return due

    def take(self, step: int, values: Mapping[str, Finished]) -> None:
        """What is written at a step."""
        if self.watcher is not None:
            self.watcher.take(step, values)

    def judge(self, step: int) -> Future[Verdict]:
        """Asks the rules; on rank 0."""
        assert self.watcher is not None
        return self.watcher.judge(step)

    def awaits(self, step: int, verdict: Future[Verdict]) -> None:
        """The verdict on what was published of a step will come."""
        if self.decides:
            self.awaited.append((step, verdict))

    def failed(self, error: Exception) -> None:
        """A rule has failed: `verdict` raises it."""
        verdict: Future[Verdict] = Future()
        verdict.set_exception(error)
        self.awaited.append((-1, verdict))

    def verdict(self, step: int) -> Verdict:
        """What is to be done now that a step is finished. Raises what `failed` was given."""
        found = Verdict.NONE
        while self.awaited and self.awaited[0][0] < step:
            _, verdict = self.awaited.popleft()
            found |= (self._answer or _answer)(verdict)
        return found

    def close(self, step: int, seconds: float) -> None:
        """The run has ended: rules are asked for the last time."""
        self.awaited.clear()
        if self.watcher is not None:
            self.watcher.close(step, seconds)

    def drop(self) -> None:
        """Nobody asks any more."""
        self.awaited.clear()
        if self.watcher is not None:
            self.watcher.drop()


def watch_of(
    live: Live,
    schedule: Schedule,
    *,
    strict: bool,
    write: Write | None,
    ranks: Ranks | None,
    partial: bool,
    before: tuple[str, int] | None,
) -> Watch | None:
    """The watch of a run.

    Args:
        live: the rules.
        schedule: when they are asked.
        strict: raise errors of rules.
        write: writes texts of a step; None on ranks that write nothing.
        ranks: all ranks, where there are several.
        partial: this is one of several ranks, and the others are not there: alone it decides nothing.
        before: the folder of a run that is resumed, and the step after which.
    """
    watched = live.watched()
    decides = live.decides and not partial
    if not watched or (write is None and not (ranks is not None and decides)):
        return None
    watcher = Watcher(watched, write=write) if write is not None else None
    if watcher is not None and before is not None:
        watcher.recall(*before)
    answer: Answer | None = None
    if decides:
        answer = _answer if ranks is None else ranks.answer
    watch = Watch(schedule, watcher=watcher, answer=answer)
    if watcher is not None and strict:
        watcher.fail = watch.failed
    return watch


def _answer(verdict: Future[Verdict]) -> Verdict:
    return verdict.result()
