"""Defines schedules: functions ``step -> bool`` of the step alone, so all ranks agree.

Equal schedules compare equal, so that each is called once per step. Schedules can be pickled, as callbacks are when a
launcher spawns processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from tbx_callbacks._extensions import OUTSIDE_ERRORS
from tbx_callbacks._text import reason

logger = logging.getLogger(__name__)

Schedule = Callable[[int], bool]


@dataclass(frozen=True)
class Every:
    """Steps n, 2n, 3n, ... (steps are 1-based)."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"every must be at least 1 step, got {self.n}; leave the metric out to switch it off")

    def __call__(self, step: int) -> bool:
        return step % self.n == 0

    def __str__(self) -> str:
        return f"every {self.n} steps" if self.n > 1 else "every step"


@dataclass(frozen=True)
class At:
    """Exactly these steps."""

    steps: frozenset[int]

    def __call__(self, step: int) -> bool:
        return step in self.steps

    def __str__(self) -> str:
        return f"at step{'s' * (len(self.steps) > 1)} {', '.join(map(str, sorted(self.steps)))}"


@dataclass(frozen=True)
class PerDecade:
    """Steps on a logarithmic scale: `points` per decade, rounded. Four give 1, 2, 3, 6, 10, 18, ..."""

    points: int

    def __call__(self, step: int) -> bool:
        if step < 1:
            return False
        exponent = self.points * math.log10(step)
        return any(round(10 ** (n / self.points)) == step for n in (math.floor(exponent), math.ceil(exponent)))

    def __str__(self) -> str:
        return f"{self.points} times per decade of steps"


@dataclass(frozen=True)
class EveryEpochs:
    """The end of every `epochs` epochs, perhaps a fraction: the first step at or after it.

    `steps_per_epoch` counts optimizer steps. Without it, as in a metric set, no step is due.
    """

    epochs: float
    steps_per_epoch: int | None = None

    def __call__(self, step: int) -> bool:
        if self.steps_per_epoch is None:
            return False
        steps, periods = self._period
        return step * periods // steps > (step - 1) * periods // steps

    def __str__(self) -> str:
        return f"every {self.epochs:g} epochs" if self.epochs != 1 else "every epoch"

    @cached_property
    def _period(self) -> tuple[int, int]:
        """The number of steps in a period, as an exact fraction."""
        return (Fraction(str(self.epochs)) * (self.steps_per_epoch or 1)).as_integer_ratio()


@dataclass(frozen=True)
class Either:
    """The steps of any of the schedules."""

    schedules: tuple[Schedule, ...]

    def __call__(self, step: int) -> bool:
        return any(schedule(step) for schedule in self.schedules)

    def __str__(self) -> str:
        return " and ".join(map(str, self.schedules))


@dataclass(frozen=True)
class Never:
    """No step."""

    def __call__(self, step: int) -> bool:
        return False

    def __str__(self) -> str:
        return "never"


@dataclass(frozen=True)
class NotChecked:
    """A schedule from outside the package that must not be imported; no step is due."""

    path: str

    def __call__(self, step: int) -> bool:
        return False

    def __str__(self) -> str:
        return f"{self.path} (not checked)"


@dataclass(frozen=True)
class OutsideSchedule:
    """A schedule from outside the package. No step is due where it raises; one warning names it."""

    schedule: Schedule

    def __call__(self, step: int) -> bool:
        try:
            return bool(self.schedule(step))
        except OUTSIDE_ERRORS as error:  # code from outside may raise anything
            if str(self) not in _warned:
                _warned.add(str(self))
                logger.warning(
                    "cadence %s is not due where it raises: %s at step %d; fix it", self, reason(error), step
                )
            return False

    def __str__(self) -> str:
        return str(self.schedule)


def guarded(schedule: Schedule) -> Schedule:
    """The schedule; one from outside the package as an `OutsideSchedule`."""
    return schedule if type(schedule).__module__ == __name__ else OutsideSchedule(schedule)


never: Schedule = Never()
"""No step."""


def every(n: int) -> Schedule:
    """Every `n` steps."""
    return Every(n)


def at(*steps: int) -> Schedule:
    """Exactly these steps."""
    return At(frozenset(steps))


def either(*schedules: Schedule) -> Schedule:
    """The steps of any of the schedules."""
    non_empty = tuple(schedule for schedule in schedules if schedule != never)
    return Either(non_empty) if len(non_empty) > 1 else next(iter(non_empty), never)


def first_after(schedule: Schedule, step: int) -> float:
    """Returns a step after `step` before which the schedule has no other one: its next step, if that is known.

    It is infinite without another step, and `step + 1` for a schedule that does not tell.
    """
    if isinstance(schedule, Every):
        return step - step % schedule.n + schedule.n
    if isinstance(schedule, At):
        return min((each for each in schedule.steps if each > step), default=math.inf)
    if isinstance(schedule, Either):
        return min(first_after(part, step) for part in schedule.schedules)
    if isinstance(schedule, EveryEpochs) and schedule.steps_per_epoch is not None:
        steps, periods = schedule._period
        return -(-(step * periods // steps + 1) * steps // periods)
    return math.inf if isinstance(schedule, (Never, NotChecked)) else step + 1


def stretch(schedule: Schedule, factor: int) -> Schedule:
    """The schedule with every period multiplied by `factor`; single steps stay."""
    if isinstance(schedule, Every):
        return Every(schedule.n * factor)
    if isinstance(schedule, EveryEpochs):
        return replace(schedule, epochs=float(Fraction(str(schedule.epochs)) * factor))
    if isinstance(schedule, Either):
        return Either(tuple(stretch(part, factor) for part in schedule.schedules))
    return schedule


def can_stretch(schedule: Schedule) -> bool:
    """Whether the schedule has a period that can be multiplied."""
    return stretch(schedule, 2) != schedule


_warned: set[str] = set()


def forget_warnings() -> None:
    """Makes each cadence warn again, in the training that starts now."""
    _warned.clear()
