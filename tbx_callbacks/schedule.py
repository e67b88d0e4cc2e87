"""When something is measured: a schedule is a function ``step -> bool`` of the step alone, so all ranks agree.

Schedules can be pickled, as callbacks are when a launcher spawns processes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

Schedule = Callable[[int], bool]


def every(n: int) -> Schedule:
    """Steps n, 2n, 3n, ... (steps are 1-based)."""
    if n < 1:
        raise ValueError(f"every must be at least 1 step, got {n}; leave the metric out to switch it off")
    return partial(_is_multiple, n)


def at(*steps: int) -> Schedule:
    """Exactly these steps."""
    return frozenset(steps).__contains__


def either(*schedules: Schedule) -> Schedule:
    """Steps that any of the schedules names."""
    return partial(_any, schedules)


def never(step: int) -> bool:  # noqa: ARG001
    """No step."""
    return False


def _is_multiple(n: int, step: int) -> bool:
    return step % n == 0


def _any(schedules: tuple[Schedule, ...], step: int) -> bool:
    return any(schedule(step) for schedule in schedules)
