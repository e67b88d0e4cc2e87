"""Makes runs for the tests of the live view, in memory and as JSON lines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tbx_callbacks.monitor.pace import pace_of
from tbx_callbacks.monitor.watched_runs import WatchedRun
from tbx_callbacks.rules.diagnose import diagnose
from tbx_callbacks.runs.series import Run, Series

START = 1_700_000_000.0


def series(values: Sequence[float], *, every: int = 1, seconds: float = 1.0) -> Series:
    """A series with its first point at step `every`; `seconds` pass from point to point."""
    steps = np.arange(1, len(values) + 1) * every
    return Series(steps, np.array(values, np.float64), START + seconds * np.arange(len(values)))


def watched(name: str, scalars: Mapping[str, Series], hparams: Mapping[str, float] | None = None) -> WatchedRun:
    """A run that was read and diagnosed."""
    run = Run(scalars=scalars, hparams=hparams or {})
    return WatchedRun(name, f"/runs/{name}", run, diagnose(run), pace_of(run))


def training(name: str = "exp", *, layers: int = 6, points: int = 40) -> WatchedRun:
    """A training with losses, gradient norms before and after clipping, and values by layer."""
    falling = np.geomspace(1.0, 0.1, points)
    scalars = {
        "train/loss": series(falling.tolist()),
        "eval/loss": series((falling[9::10] + 0.05).tolist(), every=10),
        "grad_norm/total": series((3 * falling).tolist()),
        "grad_norm_clipped/total": series(np.minimum(3 * falling, 1.0).tolist()),
        "perf/steps_per_s": series([12.5] * points),
        "perf/samples_per_s": series([100.0] * points),
        "time/left_s": series([90.0] * points),
    }
    for index in range(layers):
        scalars[f"grad_norm/model.layers.{index}"] = series((falling * 10.0 ** (index % 5)).tolist())
        scalars[f"update_ratio/model.layers.{index}"] = series([1e-3] * points)
    return watched(name, scalars, {"max_steps": 200.0})


def add_lines(file: Path, steps: range, **values: float) -> Path:
    """Appends steps to a file of JSON lines; `train__loss=1.0` is the tag `train/loss`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    by_tag = {tag.replace("__", "/"): value for tag, value in (values or {"train__loss": 1.0}).items()}
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"step": step, **by_tag}) + "\n" for step in steps)
    return file


def with_status(run: WatchedRun, status: str) -> WatchedRun:
    """The run with another status in its log."""
    return dataclasses.replace(run, run=dataclasses.replace(run.run, status=status))
