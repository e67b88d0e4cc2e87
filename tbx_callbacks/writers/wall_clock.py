"""Defines `WallClock`, which tells the time of events."""

from __future__ import annotations

import time


class WallClock:
    """Tells the wall time, which never goes back: if the system's clock is set back, it counts on from there."""

    def __init__(self) -> None:
        self._last = time.time(), time.monotonic()

    def now(self) -> float:
        """Returns the seconds since the epoch."""
        (wall, earlier), now = self._last, time.monotonic()
        wall = max(time.time(), wall + now - earlier)
        self._last = wall, now
        return wall
