"""Tests the parts of a step's time, the time left, and the slowest rank."""

from __future__ import annotations

import pytest

from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks.metrics.context import Interval, RunInfo, Seconds
from tbx_callbacks.metrics.step_time import Lead, StepTime
from tests.helpers.contexts import context, finished

TIMES = Seconds({"time/data_s": 2.0, "time/forward_s": 4.0, "time/backward_s": 8.0, "time/other_s": 6.0})


def test_step_time_parts_are_per_step() -> None:
    values = finished(StepTime()(context(interval=Interval(steps=4, times=TIMES))))
    assert values == {"time/data_s": 0.5, "time/forward_s": 1.0, "time/backward_s": 2.0, "time/other_s": 1.5}


def test_step_time_without_steps_or_times_not_written() -> None:
    assert StepTime()(context(interval=Interval(times=TIMES))) == {}
    assert StepTime()(context(interval=Interval(steps=4))) == {}


def test_step_time_left_ignores_slow_first_point() -> None:
    state: dict[str, float] = {}
    left = []
    for step, seconds in ((2, 100.0), (4, 10.0), (6, 20.0), (10, 40.0)):
        given = context(
            step=step,
            run=RunInfo(last_step=10),
            interval=Interval(steps=2, times=Seconds({"time/forward_s": seconds / 2, "time/other_s": seconds / 2})),
            state=state,
        )
        left.append(finished(StepTime()(given))["time/left_s"])
    assert left == [8 * 50.0, 6 * 5.0, 4 * 7.5, 0.0]


def test_step_time_left_without_last_step_not_written() -> None:
    assert "time/left_s" not in StepTime()(context(interval=Interval(steps=4, times=TIMES)))


def test_step_time_slowest_rank_by_own_work() -> None:
    own = [6.0, 9.0, 3.0]  # data and forward; all ranks wait for the slowest one in the backward pass
    by_rank = [
        StepTime()(
            context(
                run=RunInfo(rank=rank),
                interval=Interval(
                    steps=3, times=Seconds({"time/forward_s": seconds, "time/backward_s": 30.0 - seconds})
                ),
            )
        )
        for rank, seconds in enumerate(own)
    ]
    merged = {}
    for tag in by_rank[0]:
        values = [values[tag] for values in by_rank]
        sums = [sum(parts) for parts in zip(*(value.sums() for value in values), strict=True)]
        maxes = [max(parts) for parts in zip(*(value.maxes() for value in values), strict=True)]
        merged[tag] = values[0].result(sums, maxes)
    assert merged["time/slowest_rank"] == 1
    assert merged["time/slowest_lead"] == pytest.approx((3.0 - 2.0) / 10.0)
    assert merged["time/forward_s"] == 2.0


def test_lead_of_no_time_not_written() -> None:
    values = StepValues()
    values.add({"lead": Lead(0.0, 0.0)})
    assert values.finish_local() == {}
