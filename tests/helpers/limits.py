"""Computes time limits of the processes that tests start; a limit only ends a hang, and grows with the load."""

from __future__ import annotations

import os

LONGEST = 1500.0
"""Seconds; shorter than pytest's own limit (pyproject.toml)."""


def limit(seconds: float) -> float:
    """The limit of work that takes less than `seconds` on an idle machine: twice that, or more on a busy one."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return min(LONGEST, 2 * seconds * max(1.0, load))
