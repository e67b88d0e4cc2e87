"""Tests speed, number of steps and time left."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tbx_callbacks.monitor.pace import Pace, pace_of
from tbx_callbacks.runs.series import Run, Series
from tests.helpers.watched import START, series


def test_pace_logged_values_first() -> None:
    scalars = {
        "train/loss": series([1.0] * 10),
        "perf/steps_per_s": series([4.0] * 10),
        "perf/samples_per_s": series([32.0] * 10),
        "time/left_s": series([7.0] * 10),
    }
    pace = pace_of(Run(scalars=scalars, hparams={"max_steps": 100.0}))
    assert pace == Pace(10, 100, 4.0, 32.0, 7.0, START + 9, 1.0)


def test_pace_time_left_from_steps_and_speed() -> None:
    pace = pace_of(Run(scalars={"loss": series([1.0] * 11, every=5, seconds=2.0)}, hparams={"max_steps": 100.0}))
    assert pace.steps_per_s == pytest.approx(2.5)  # 5 steps in 2 s
    assert pace.left_s == pytest.approx((100 - 55) / 2.5)


def test_pace_steps_from_epochs() -> None:
    scalars = {"train/loss": series([1.0] * 10), "train/epoch": series(np.linspace(0.05, 0.5, 10).tolist())}
    assert pace_of(Run(scalars=scalars, hparams={"max_steps": -1.0, "num_train_epochs": 3.0})).total == 60


@pytest.mark.parametrize("hparams", [{}, {"max_steps": math.nan}, {"max_steps": "many"}, {"max_steps": 3.0}])
def test_pace_without_plausible_steps_unknown(hparams: dict[str, float | str]) -> None:
    pace = pace_of(Run(scalars={"train/loss": series([1.0] * 10)}, hparams=hparams))
    assert (pace.total, pace.left_s) == (None, None)


def test_pace_without_times_unknown() -> None:
    nan = np.full(3, math.nan)
    run = Run(scalars={"train/loss": Series(np.arange(3), np.ones(3), nan)}, hparams={"max_steps": 9.0})
    assert pace_of(run) == Pace(2, 9)


def test_pace_of_single_point_without_speed() -> None:
    assert pace_of(Run(scalars={"train/loss": series([1.0])})) == Pace(1, last_time=START)
    assert pace_of(Run()) == Pace()
