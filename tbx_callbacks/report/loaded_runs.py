"""Loads the runs of a report, with their names, colours and diagnoses."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbx_callbacks import tags
from tbx_callbacks._text import printable
from tbx_callbacks.report.colours import RUNS, SYMBOLS
from tbx_callbacks.rules import Acknowledgement, Diagnosis, Rule
from tbx_callbacks.rules.diagnose import DiagnosedRun, diagnose_folder
from tbx_callbacks.runs.bad_batches import BadBatch, read_bad_batches
from tbx_callbacks.runs.examples import ExampleTable, read_examples
from tbx_callbacks.runs.folders import is_remote
from tbx_callbacks.runs.reader import Progress, UnreadableError
from tbx_callbacks.runs.series import Floats, Run

logger = logging.getLogger(__name__)

_CLOCK_POINTS = 400
_LATEST = 253_402_300_800  # Unix time of the year 10000, which no calendar of Python has


@dataclass(frozen=True)
class LoadedRun:
    """One run: its name (unique in the report), its colour, its logged data, and its diagnosis."""

    name: str
    colour: str
    folder: str
    run: Run
    diagnosis: Diagnosis
    examples: ExampleTable | None = None
    """The rows of its training data, if they were recorded."""
    bad_batches: Sequence[BadBatch] = ()
    """The batches of steps that went wrong, if they were kept."""
    symbol: str = SYMBOLS[0]
    """Its symbol in charts of several runs."""


@dataclass(frozen=True)
class Clock:
    """Elapsed seconds and samples at some steps of a run; arrays of shape `[K]`."""

    steps: Floats
    seconds: Floats
    samples: Floats | None
    started: float
    """Unix time of the first point, in seconds; NaN if no point has a possible time."""


def read(
    logdirs: Sequence[str | os.PathLike[str]],
    *,
    rules: Mapping[str, Rule] | None = None,
    acknowledged: Sequence[Acknowledgement] = (),
    progress: Callable[[str], Progress] | None = None,
) -> list[LoadedRun]:
    """Reads and diagnoses every run in the folders; see `diagnose_folder`.

    A run without scalars is left out with a warning, and so is a folder without a run that can be read, unless it is
    the only one.
    """
    if not logdirs:
        raise ValueError("at least one folder of runs must be given, got none")
    diagnosed: list[tuple[str, DiagnosedRun]] = []
    failures: list[UnreadableError] = []
    for logdir in logdirs:
        try:
            entries = [*diagnose_folder(logdir, rules=rules, acknowledged=acknowledged, progress=progress)]
        except UnreadableError as error:
            failures.append(error)
        else:
            diagnosed += [(os.fspath(logdir), entry) for entry in entries if entry.run.scalars]
            for entry in entries:
                if not entry.run.scalars:
                    logger.warning("run %s is left out: it holds histograms and no scalars", printable(entry.name))
            if not any(entry.run.scalars for entry in entries):
                failures.append(
                    UnreadableError(f"a run must hold scalars, but those in {os.fspath(logdir)!r} hold none")
                )
    if not diagnosed:
        raise failures[0]
    for failure in failures:
        logger.warning("a folder is left out: %s", printable(str(failure)))
    names = _names(diagnosed)
    return [
        LoadedRun(
            name,
            RUNS[index % len(RUNS)],
            entry.folder,
            entry.run,
            entry.diagnosis,
            read_examples(entry.folder),
            read_bad_batches(entry.folder),
            SYMBOLS[index % len(SYMBOLS)],
        )
        for index, (name, (_, entry)) in enumerate(zip(names, diagnosed, strict=True))
    ]


def clock(run: Run) -> Clock:
    """Returns the times at which a run's steps were finished, as far as they are possible times."""
    longest = max(run.scalars.values(), key=lambda series: int(_are_times(series.wall_times).sum()))
    known = np.flatnonzero(_are_times(longest.wall_times))
    if not known.size:
        steps = longest.steps[[0, -1]].astype(np.float64)
        return Clock(steps, np.zeros(2), _samples(run, steps), float("nan"))
    indices = known[np.unique(np.linspace(0, len(known) - 1, _CLOCK_POINTS).astype(np.intp))]
    first = [series.wall_times[_are_times(series.wall_times)][:1] for series in run.scalars.values()]
    started = float(np.concatenate(first).min())
    steps = longest.steps[indices].astype(np.float64)
    return Clock(steps, np.maximum(longest.wall_times[indices] - started, 0), _samples(run, steps), started)


def _are_times(wall_times: Floats) -> NDArray[np.bool_]:
    return (wall_times >= 0) & (wall_times < _LATEST)


def _samples(run: Run, query_steps: Floats) -> Floats | None:
    """Number of samples up to each step; None if it is unknown, or no number."""
    with np.errstate(over="ignore", invalid="ignore"):
        samples = _counted_samples(run, query_steps)
    return samples if samples is not None and np.isfinite(samples).all() else None


def _counted_samples(run: Run, query_steps: Floats) -> Floats | None:
    """The number of samples from the logged rates or else from the batch size."""
    rate, step_s = run.scalars.get(tags.SAMPLES_PER_SECOND), run.scalars.get(tags.STEP_SECONDS)
    if rate is not None and step_s is not None and len(rate) == len(step_s):
        batch = np.nan_to_num(rate.values * step_s.values)
        steps = np.concatenate([[0.0], rate.steps.astype(np.float64)])
        cumulative = np.concatenate([[0.0], np.cumsum(batch * np.diff(steps))])
        extrapolated = np.maximum(query_steps - steps[-1], 0) * batch[-1]
        return np.asarray(np.round(np.interp(query_steps, steps, cumulative) + extrapolated))
    batch_size = run.hparams.get("per_device_train_batch_size")
    accumulated = run.hparams.get("gradient_accumulation_steps") or 1.0
    if isinstance(batch_size, float) and isinstance(accumulated, float):
        return query_steps * batch_size * accumulated
    return None


def _names(diagnosed: Sequence[tuple[str, DiagnosedRun]]) -> list[str]:
    """Short names. Where two are equal, with their folder, or else with a number."""
    all_logdirs = {logdir for logdir, _ in diagnosed}
    names = []
    for logdir, entry in diagnosed:
        base = os.path.basename(logdir.rstrip("/") if is_remote(logdir) else os.path.normpath(logdir))
        if entry.name == ".":
            names.append(base if base not in ("", ".") else os.path.basename(os.path.abspath(logdir)))
        else:
            names.append(entry.name if len(all_logdirs) == 1 else f"{base}/{entry.name}")
    return [
        name if names.count(name) == 1 else f"{name} ({names[:index].count(name) + 1})"
        for index, name in enumerate(names)
    ]
