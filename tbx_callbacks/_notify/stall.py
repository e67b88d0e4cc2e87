"""Notices that a training makes no steps any more: `StallClock` decides, `Watchdog` looks now and then."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Collection

_TIMES = 3.0  # a stall is a wait of so many times the longest earlier one

_OUTSIDE_FLOOR = 300.0  # evaluations and checkpoints may log no point for so many seconds
_OUTSIDE_UNMEASURED = 1800.0  # the same for a log that has not grown twice yet, so that nothing tells how often it does


def outside_clock() -> StallClock:
    """Returns a clock for a training that is seen from outside, by the growths of its log."""
    return StallClock(_OUTSIDE_FLOOR, recent=100, unmeasured=_OUTSIDE_UNMEASURED)  # it may have been resumed after days


def is_silent_outside(seconds: float, longest_wait: float) -> bool:
    """Whether a log that has not grown for so many seconds is a stall, by the rule of `outside_clock`.

    Args:
        seconds: since its last point.
        longest_wait: seconds between two of its last points, at most; 0 if it holds no two times.
    """
    return seconds > _longest_usual([longest_wait] if longest_wait else [], _OUTSIDE_FLOOR, _OUTSIDE_UNMEASURED)


class StallClock:
    """Compares the time since something happened last with the waits before.

    It sees a count now and then. A count that rises by two or more between two looks proves that a whole wait lay
    between them, so that a training that hangs before the second look is noticed as well. The wait until the first
    event is no measure for later ones: it includes the start.

    Args:
        floor: seconds that are never a stall.
        recent: number of waits that count.
        unmeasured: seconds that are never a stall while no wait is known.
    """

    def __init__(self, floor: float, *, recent: int = 10_000, unmeasured: float = math.inf) -> None:
        self._floor, self._unmeasured = floor, unmeasured
        self._waits: deque[float] = deque(maxlen=recent)
        self._count: int | None = None
        self._since = self._looked = 0.0
        self._is_first, self._is_told = True, False

    def look(self, count: int, seconds: float) -> float | None:
        """Returns the length of a stall, in seconds, when it is noticed; each stall once.

        Args:
            count: how often it has happened: the number of finished steps, or of growths of a log.
            seconds: the time now.
        """
        if self._count is None:
            self._since = seconds
        elif count != self._count:
            if not self._is_first:
                self._waits.append(seconds - self._since)
            elif count > self._count + 1:
                self._waits.append(seconds - self._looked)
            self._since = seconds
            self._is_first = self._is_told = False
        self._count, self._looked = count, seconds
        waited = seconds - self._since
        if self._is_told or waited <= _longest_usual(self._waits, self._floor, self._unmeasured):
            return None
        self._is_told = True
        return waited


def _longest_usual(waits: Collection[float], floor: float, unmeasured: float) -> float:
    return max(floor, _TIMES * max(waits)) if waits else max(floor, unmeasured)


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
