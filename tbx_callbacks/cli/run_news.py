"""Turns what is new in a growing run into notifications."""

from __future__ import annotations

import numpy as np

from tbx_callbacks._notify.message import CRASH, Message, end, finding, stall
from tbx_callbacks._notify.stall import outside_clock
from tbx_callbacks.rules import SEVERITIES
from tbx_callbacks.rules.diagnose import DiagnosedRun
from tbx_callbacks.runs.series import Run


class RunNews:
    """A run that is looked at again and again.

    Args:
        is_old: whether the run was there before the watch: what it holds at the first look is no news.
    """

    def __init__(self, *, is_old: bool) -> None:
        self._is_old = is_old
        self._name, self._step, self._status = "", 0, ""
        self._ranks: dict[str, int] = {}
        self._clock = outside_clock()
        self._points = -1  # before the first look
        self._growths, self._newest = 0, 0.0

    def look(self, diagnosed: DiagnosedRun, now: float) -> list[Message]:
        """Returns what is new in a run that has grown.

        Args:
            diagnosed: the run.
            now: seconds since 1970.
        """
        run, is_first = diagnosed.run, self._points < 0
        self._name, self._step = diagnosed.folder, run.last_step
        self._see_growths(run, now)
        messages = [*self._new_findings(diagnosed), *self._new_status(run.status)]
        if is_first and self._is_old:
            self.look_at_clock(now)  # a run that stands still already
            return []
        return messages

    def look_at_clock(self, now: float) -> list[Message]:
        """Returns the message about a stall, when it is noticed."""
        waited = None if self._status or self._points < 0 else self._clock.look(self._growths, now)
        return [] if waited is None else [stall(self._name, self._step, waited, "no new point has been logged")]

    def _see_growths(self, run: Run, now: float) -> None:
        """Tells the clock when the log has grown: each step by the time of its last point, or else at this look."""
        points = sum(map(len, run.scalars.values()))
        if points == self._points:
            return
        self._points = points
        later = [time for time in _times(run) if time > self._newest]
        self._newest = later[-1] if later else self._newest
        for seconds in later or [now]:  # a resumed training's host may have a clock that is behind
            self._growths += 1
            self._clock.look(self._growths, seconds)

    def _new_findings(self, diagnosed: DiagnosedRun) -> list[Message]:
        messages = []
        for found in diagnosed.diagnosis.findings:
            rank = SEVERITIES.index(found.severity)
            if rank < self._ranks.get(found.id, len(SEVERITIES)):
                self._ranks[found.id] = rank
                messages.append(
                    finding(self._name, self._step, found.severity, found.code, f"{found.means} {found.advice}")
                )
        return [message for message in messages if message is not None]

    def _new_status(self, status: str) -> list[Message]:
        before, self._status = self._status, status
        if status == before or not status:
            return []
        if status == "succeeded":
            return [end(self._name, self._step)]
        return [Message(CRASH, self._name, self._step, "the log says that the training has failed, or was interrupted")]


def _times(run: Run) -> list[float]:
    """The wall time of each step's last point, sorted; empty if the log holds none."""
    columns = [(series.steps, series.wall_times) for series in run.scalars.values()]
    if not columns:
        return []
    steps, times = (np.concatenate(column) for column in zip(*columns, strict=True))
    is_known = np.isfinite(times) & (times > 0)
    _, step_of = np.unique(steps[is_known], return_inverse=True)
    latest = np.zeros(step_of.max(initial=-1) + 1)
    np.maximum.at(latest, step_of, times[is_known])
    return [float(seconds) for seconds in np.unique(latest)]
