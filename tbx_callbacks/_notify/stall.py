"""Notices that a training makes no steps any more: `StallClock` decides, `Watchdog` looks now and then."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

TIMES = 3.0
"""A stall is a wait of so many times the longest earlier one."""


class StallClock:
    """Compares the time since the last new step with earlier ones.

    The time until the first new step is no measure for later ones: it includes the start.

    Args:
        floor: seconds that are never a stall.
        recent: number of waits that count.
        needs_measure: whether nothing is a stall before there are two new steps.
    """

    def __init__(self, floor: float, *, recent: int = 10_000, needs_measure: bool = True) -> None:
        self._floor, self._needs_measure = floor, needs_measure
        self._waits: deque[float] = deque(maxlen=recent)
        self._step: int | None = None
        self._since, self._is_first, self._is_told = 0.0, True, False

    def look(self, step: int, seconds: float) -> float | None:
        """Returns the length of a stall, in seconds, when it is noticed; each stall once.

        Args:
            step: the last step.
            seconds: the time now.
        """
        if self._step is None:
            self._step, self._since = step, seconds
        elif step != self._step:
            if not self._is_first:
                self._waits.append(seconds - self._since)
            self._step, self._since = step, seconds
            self._is_first = self._is_told = False
        waited = seconds - self._since
        if self._is_told or (self._needs_measure and not self._waits):
            return None
        if waited <= max(self._floor, TIMES * max(self._waits, default=0.0)):
            return None
        self._is_told = True
        return waited


class Watchdog:
    """Calls `look` on a daemon thread, every `period` seconds, until `stop` or until it returns False.

    Args:
        look: must not raise.
        period: seconds.
    """

    def __init__(self, look: Callable[[], bool], period: float) -> None:
        self._stopped = stopped = threading.Event()

        def watch() -> None:
            while not stopped.wait(period) and look():
                pass

        threading.Thread(target=watch, name="tbx_callbacks watchdog", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread; does not wait for it."""
        self._stopped.set()
