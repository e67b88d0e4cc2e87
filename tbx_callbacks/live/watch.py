"""When rules are asked in a run, on the rank that writes; what they decide is done on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tbx_callbacks.decisions import Decisions
from tbx_callbacks.live.settings import Live
from tbx_callbacks.live.watcher import Watcher, Write
from tbx_callbacks.parts import Finished
from tbx_callbacks.schedule import Schedule
from tbx_callbacks.verdict import Verdict

RULES = "rules"
"""The name of what rules decide; its numbers are flags of `Verdict`, by their names."""


class Watch:
    """Rules are asked when a step is published at which `schedule` is due, or has been since they were asked last.

    Args:
        schedule: the steps.
        watcher: asks the rules.
        decisions: what they want done becomes one of these; None where they only say what they find.
    """

    def __init__(self, schedule: Schedule, watcher: Watcher, decisions: Decisions | None) -> None:
        self._schedule, self._checked = schedule, 0
        self.watcher, self._decisions = watcher, decisions

    def due(self, step: int) -> bool:
        """Whether rules are asked about a step that is published; once for each."""
        due = self._schedule(step) or any(map(self._schedule, range(self._checked + 1, step)))
        self._checked = step
        return due

    def take(self, step: int, values: Mapping[str, Finished]) -> None:
        """What is written at a step."""
        self.watcher.take(step, values)

    def judge(self, step: int) -> Callable[[], None] | None:
        """Asks the rules; what it returns waits until they have decided, if they may."""
        if self._decisions is None:
            self.watcher.judge(step)
            return None
        judged = self.watcher.judge(step, self._decide)

        def wait() -> None:
            judged.result()

        return wait

    def _decide(self, verdict: Verdict) -> None:
        """In the rules' thread."""
        if verdict and self._decisions is not None:
            self._decisions.decide(RULES, {str(flag.name): 1.0 for flag in Verdict if flag in verdict})

    def close(self, step: int, seconds: float) -> None:
        """The run has ended: rules are asked for the last time."""
        self.watcher.close(step, seconds)

    def drop(self) -> None:
        """Nobody asks any more."""
        self.watcher.drop()


def watch_of(
    live: Live, schedule: Schedule, decisions: Decisions, *, strict: bool, write: Write, before: tuple[str, int] | None
) -> Watch | None:
    """The watch of a run; None without rules.

    Args:
        live: the rules.
        schedule: when they are asked.
        decisions: of the run.
        strict: raise errors of rules, when decisions are acted upon.
        write: writes texts of a step.
        before: the folder of a run that is resumed, and the step after which.
    """
    if not (watched := live.watched()):
        return None
    watcher = Watcher(watched, write=write)
    if before is not None:
        watcher.recall(*before)
    if strict:
        watcher.fail = decisions.fail
    return Watch(schedule, watcher, decisions if live.decides else None)
