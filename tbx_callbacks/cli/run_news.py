"""Turns what is new in a growing run into notifications."""

from __future__ import annotations

import numpy as np

from tbx_callbacks._notify.message import CRASH, Message, end, finding, stall
from tbx_callbacks._notify.stall import StallClock
from tbx_callbacks.rules import SEVERITIES
from tbx_callbacks.rules.diagnose import DiagnosedRun
from tbx_callbacks.runs.series import Run

_FLOOR = 300.0  # seconds that are never a stall: evaluations and checkpoints may log no point
_RECENT = 100  # waits between points that count: a run may have been resumed after days


class RunNews:
    """A run that is looked at again and again.

    Args:
        is_old: whether the run was there before the watch: what it holds at the first look is no news.
    """

    def __init__(self, *, is_old: bool) -> None:
        self._is_old = is_old
        self._name, self._step, self._status = "", 0, ""
        self._ranks: dict[str, int] = {}
        self._clock = StallClock(_FLOOR, recent=_RECENT)
        self._points = -1  # before the first look

    def look(self, diagnosed: DiagnosedRun, now: float) -> list[Message]:
        """Returns what is new in a run that has grown.

        Args:
            diagnosed: the run.
            now: seconds since 1970.
        """
        run, is_first = diagnosed.run, self._points < 0
        self._name, self._step = diagnosed.folder, run.last_step
        times = _times(run)
        if is_first:
            for number, seconds in enumerate(times):
                self._clock.look(-number - 2, seconds)
        points = sum(map(len, run.scalars.values()))
        if points != self._points:
            self._points = points
            self._clock.look(points, times[-1] if times else now)
        messages = [*self._new_findings(diagnosed), *self._new_status(run.status)]
        if is_first and self._is_old:
            self.look_at_clock(now)  # a run that stands still already
            return []
        return messages

    def look_at_clock(self, now: float) -> list[Message]:
        """Returns the message about a stall, when it is noticed."""
        waited = None if self._status or self._points < 0 else self._clock.look(self._points, now)
        return [] if waited is None else [stall(self._name, self._step, waited, "no new point has been logged")]

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
        return [Message(CRASH, self._name, self._step, "the log says that the training has failed")]


def _times(run: Run) -> list[float]:
    """The wall times of all points, sorted, each once; empty if the log holds none."""
    columns = [series.wall_times for series in run.scalars.values()]
    if not columns:
        return []
    times = np.unique(np.concatenate(columns))
    return [float(seconds) for seconds in times[np.isfinite(times) & (times > 0)]]
