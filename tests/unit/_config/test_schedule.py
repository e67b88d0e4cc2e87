"""Tests schedules: the steps at which a metric is due."""

from __future__ import annotations

import pickle

import pytest

from tbx_callbacks._config.schedule import at, can_stretch, either, every, never, stretch


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
