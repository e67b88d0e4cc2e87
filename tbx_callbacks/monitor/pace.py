"""Estimates how fast a run trains, how many steps it will have, and how long they take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.report.loaded_runs import clock
from tbx_callbacks.report.tables import hyper_parameters
from tbx_callbacks.runs.series import Run

_RECENT = 50  # points of the clock that the present speed is taken from
_LARGEST = 2.0**53  # steps above have no exact float


@dataclass(frozen=True)
class Pace:
    """The progress of a run at its last point; None is unknown.

    Attributes:
        step: the last step.
        total: the number of steps of the whole training.
        steps_per_s: steps per second, as logged, or else from the times of the last points.
        samples_per_s: samples per second, as logged.
        left_s: seconds until the training ends, as logged, or else from the remaining steps and the speed.
        last_time: Unix time of the last point, in seconds.
        longest_wait_s: seconds between two of the last points, at most; 0 if the log holds no two times.
    """

    step: int = 0
    total: int | None = None
    steps_per_s: float | None = None
    samples_per_s: float | None = None
    left_s: float | None = None
    last_time: float | None = None
    longest_wait_s: float = 0.0


def pace_of(run: Run) -> Pace:
    """Returns the progress of a run."""
    if not run.scalars:
        return Pace()
    step, total = run.last_step, _total(run)
    measured, last_time, wait = _measured(run)
    rate = _last(run, tags.STEPS_PER_SECOND) or measured
    left = _last(run, tags.TIME_LEFT)
    if left is None and total is not None and (measured or rate):
        left = max(0, total - step) / (measured or rate or 1.0)  # the measured speed includes evaluations and saving
    return Pace(step, total, rate, _last(run, tags.SAMPLES_PER_SECOND), left, last_time, wait)


def _last(run: Run, tag: str) -> float | None:
    """The last value of a tag; None if it is no number, or below 0."""
    series = run.scalars.get(tag)
    value = float(series.values[-1]) if series is not None and len(series) else math.nan
    return value if math.isfinite(value) and value >= 0 else None


def _measured(run: Run) -> tuple[float | None, float | None, float]:
    """Steps per second over the last points, the Unix time of the last point, and the longest wait between them."""
    with np.errstate(all="ignore"):
        times = clock(run)
        if not math.isfinite(times.started):
            return None, None, 0.0
        steps, seconds = times.steps[-_RECENT:], times.seconds[-_RECENT:]
        passed, done = float(seconds[-1] - seconds[0]), float(steps[-1] - steps[0])
    last_time = float(times.started + times.seconds.max())
    longest = float(np.diff(seconds).max(initial=0.0))
    return (done / passed if passed > 0 and done > 0 else None), last_time, longest


def _total(run: Run) -> int | None:
    """The number of steps that the settings ask for, directly or by a number of epochs."""
    settings = hyper_parameters(run)
    steps = _positive(settings.get("max_steps"))
    if steps is None:
        epochs = _positive(settings.get("num_train_epochs")) or _positive(settings.get("max_epochs"))
        series = next((run.scalars[tag] for tag in (tags.TRAIN_EPOCH, "epoch") if tag in run.scalars), None)
        done = _positive(float(series.values[-1])) if series is not None and len(series) else None
        if epochs is None or done is None or series is None:
            return None
        steps = float(series.steps[-1]) * epochs / done
    return round(steps) if run.last_step <= steps < _LARGEST else None


def _positive(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < math.inf else None  # type: ignore[operator, arg-type]
