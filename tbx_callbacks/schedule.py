"""When something is measured: a schedule is a function ``step -> bool`` of the step alone, so all ranks agree."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[int], bool]


def every(n: int) -> Schedule:
    """Steps n, 2n, 3n, ... (steps are 1-based)."""
    if n < 1:
        raise ValueError(f"every must be at least 1 step, got {n}; leave the metric out to switch it off")
    return lambda step: step % n == 0


def at(*steps: int) -> Schedule:
    """Exactly these steps."""
    chosen = frozenset(steps)
    return lambda step: step in chosen


def either(*schedules: Schedule) -> Schedule:
    """Steps that any of the schedules names."""
    return lambda step: any(schedule(step) for schedule in schedules)


def never(step: int) -> bool:  # noqa: ARG001
    """No step."""
    return False
