"""The runs that a report shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.report.colours import RUNS
from tbx_callbacks.rules import Diagnosis, Rule
from tbx_callbacks.rules.diagnose import DiagnosedRun, diagnose_folder
from tbx_callbacks.runs.reader import Progress
from tbx_callbacks.runs.series import Floats, Run

_KNOTS = 400


@dataclass(frozen=True)
class LoadedRun:
    """One run: its name, unique in the report, its colour, what it logged, and what is wrong with it."""

    name: str
    colour: str
    folder: str
    run: Run
    diagnosis: Diagnosis


@dataclass(frozen=True)
class Clock:
    """What a run's steps are in seconds since its first point, and in samples, at some steps; `[K]` each."""

    steps: Floats
    seconds: Floats
    samples: Floats | None
    started: float
    """Seconds since 1970."""


def read(
    logdirs: Sequence[str | os.PathLike[str]],
    *,
    rules: Mapping[str, Rule] | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> list[LoadedRun]:
    """Reads and judges every run in the folders; see `diagnose_folder`."""
    if not logdirs:
        raise ValueError("a report must have at least one folder of runs, got none")
    examined = [
        (os.fspath(top), one) for top in logdirs for one in diagnose_folder(top, rules=rules, progress=progress)
    ]
    names = _names(examined)
    return [
        LoadedRun(name, RUNS[place % len(RUNS)], one.folder, one.run, one.diagnosis)
        for place, (name, (_, one)) in enumerate(zip(names, examined, strict=True))
    ]


def clock(run: Run) -> Clock:
    """When a run's steps were finished."""
    longest = max(run.scalars.values(), key=len)
    kept = np.unique(np.linspace(0, len(longest) - 1, _KNOTS).astype(np.intp))
    started = float(min(series.wall_times[0] for series in run.scalars.values()))
    steps = longest.steps[kept].astype(np.float64)
    return Clock(steps, np.maximum(longest.wall_times[kept] - started, 0), _samples(run, steps), started)


def _samples(run: Run, at: Floats) -> Floats | None:
    """Samples seen up to each step: from what was measured, or else from the batch's size."""
    rate, step_s = run.scalars.get(tags.SAMPLES_PER_SECOND), run.scalars.get(tags.STEP_SECONDS)
    if rate is not None and step_s is not None and len(rate) == len(step_s):
        batch = np.nan_to_num(rate.values * step_s.values)
        steps = np.concatenate([[0], rate.steps])
        seen = np.concatenate([[0.0], np.cumsum(batch * np.diff(steps))])
        beyond = np.maximum(at - steps[-1], 0) * batch[-1]
        return np.asarray(np.round(np.interp(at, steps, seen) + beyond))
    batch_size = run.hparams.get("per_device_train_batch_size")
    if isinstance(batch_size, float):
        return at * batch_size * float(run.hparams.get("gradient_accumulation_steps") or 1)
    return None


def _names(examined: Sequence[tuple[str, DiagnosedRun]]) -> list[str]:
    """Short names; with their folder, and a number at last, where two are the same."""
    tops = {top for top, _ in examined}
    names = []
    for top, one in examined:
        base = os.path.basename(os.path.normpath(top) if "://" not in top else top.rstrip("/"))
        if one.name == ".":
            names.append(base if base not in ("", ".") else os.path.basename(os.path.abspath(top)))
        else:
            names.append(one.name if len(tops) == 1 else f"{base}/{one.name}")
    return [
        name if names.count(name) == 1 else f"{name} ({names[:place].count(name) + 1})"
        for place, name in enumerate(names)
    ]
