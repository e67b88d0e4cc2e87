"""Tests schedules: the steps at which a metric is due."""

from __future__ import annotations

import math
import pickle

import pytest

from tbx_callbacks._config.schedule import (
    EveryEpochs,
    PerDecade,
    Schedule,
    at,
    can_stretch,
    either,
    every,
    first_after,
    never,
    stretch,
)


def test_stretched_schedule_keeps_single_steps() -> None:
    schedule = stretch(either(at(1), every(4), never), 3)
    assert [step for step in range(1, 30) if schedule(step)] == [1, 12, 24]


def test_schedule_str_describes_steps() -> None:
    assert str(either(never, every(10))) == "every 10 steps"
    assert str(either(at(1), every(1))) == "at step 1 and every step"
    assert str(either(never, every(7), at(3, 2))) == "every 7 steps and at steps 2, 3"
    assert str(either(never)) == str(never) == "never"


def test_schedule_either_every_at_never() -> None:
    assert [step for step in range(1, 10) if either(every(4), at(1, 7))(step)] == [1, 4, 7, 8]
    assert not any(never(step) for step in range(10))
    with pytest.raises(ValueError, match="every must be at least 1 step, got 0"):
        every(0)


def test_schedules_equal_when_same_steps() -> None:
    assert every(3) == every(3) != every(4)
    assert len({at(1, 2), at(2, 1), at(1)}) == 2
    assert either(never, every(2)) == every(2)
    assert either() == either(never, never) == never


def test_stretches_only_with_period() -> None:
    assert can_stretch(every(2))
    assert can_stretch(either(at(1), every(2)))
    assert not can_stretch(at(1))
    assert not can_stretch(never)


def test_schedule_pickled_equal() -> None:
    schedule = either(at(1), every(4), never)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def due(schedule: Schedule, last: int) -> list[int]:
    return [step for step in range(1, last + 1) if schedule(step)]


def test_per_decade_steps_are_rounded_powers() -> None:
    assert due(PerDecade(4), 1000) == [1, 2, 3, 6, 10, 18, 32, 56, 100, 178, 316, 562, 1000]
    assert due(PerDecade(1), 12_000) == [1, 10, 100, 1000, 10_000]
    for points in (2, 3, 7, 50, 1000):
        powers = {round(10 ** (n / points)) for n in range(5 * points)}
        assert due(PerDecade(points), 5000) == sorted(step for step in powers if step <= 5000), points
    assert PerDecade(3)(10**15)
    assert str(PerDecade(4)) == "4 times per decade of steps"


def test_every_epochs_ends_of_epochs_due() -> None:
    assert due(EveryEpochs(1, 5), 16) == [5, 10, 15]
    assert due(EveryEpochs(0.5, 5), 16) == [3, 5, 8, 10, 13, 15]
    assert due(EveryEpochs(2, 5), 30) == [10, 20, 30]
    assert due(EveryEpochs(0.1, 3), 6) == [1, 2, 3, 4, 5, 6]  # a period of 0.3 steps
    assert due(EveryEpochs(0.1, 30), 12) == [3, 6, 9, 12]
    assert due(EveryEpochs(1), 30) == []
    assert str(EveryEpochs(0.5)) == "every 0.5 epochs"
    assert str(EveryEpochs(1.0, 5)) == "every epoch"


def test_stretch_epochs_are_periods_points_stay() -> None:
    assert stretch(EveryEpochs(0.1, 30), 3) == EveryEpochs(0.3, 30)
    assert can_stretch(EveryEpochs(1, 5))
    assert can_stretch(either(at(1), EveryEpochs(1, 5)))
    assert not can_stretch(PerDecade(4))
    assert str(stretch(EveryEpochs(0.1, 30), 3)) == "every 0.3 epochs"


@pytest.mark.parametrize("schedule", [PerDecade(4), EveryEpochs(0.5, 3), EveryEpochs(2)], ids=str)
def test_schedule_new_kinds_pickled_and_hashable(schedule: Schedule) -> None:
    schedule(3)
    copied = pickle.loads(pickle.dumps(schedule))
    assert copied == schedule
    assert len({copied, schedule}) == 1
    assert due(copied, 20) == due(schedule, 20)


@pytest.mark.parametrize(
    "schedule",
    [every(1), every(7), at(3, 40), either(every(10), at(1, 13)), EveryEpochs(1, 7), EveryEpochs(0.3, 11), never],
)
def test_first_after_known_schedule_next_step(schedule: Schedule) -> None:
    for step in range(60):
        later = (each for each in range(step + 1, 200) if schedule(each))
        assert first_after(schedule, step) == next(later, math.inf)


def test_first_after_unknown_schedule_each_step() -> None:
    for schedule in (PerDecade(4), lambda step: step > 5, either(every(9), PerDecade(4))):
        assert first_after(schedule, 20) == 21
