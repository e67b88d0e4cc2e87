"""Summarizes a run: verdict, findings, results, settings and the kinds of values that it holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tbx_callbacks import tags
from tbx_callbacks.comparison.kinds import is_setting
from tbx_callbacks.report.loaded_runs import LoadedRun, clock
from tbx_callbacks.report.tables import duration, format_value, hyper_parameters, is_result
from tbx_callbacks.rules import Diagnosis
from tbx_callbacks.rules.required_series import GRAD_NORM, LEARNING_RATE, TRAIN_LOSS
from tbx_callbacks.runs.series import Run, Series
from tbx_callbacks.summary.lines import findings_lines, fit

_FIRST_SETTINGS = ("learning_rate", "lr", "per_device_train_batch_size", "batch_size", "num_train_epochs", "max_steps")
_MOST_CURVES, _MOST_SETTINGS, _MOST_FAMILIES = 12, 16, 30


@dataclass(frozen=True)
class CurveSummary:
    """A curve in a few numbers.

    Attributes:
        tag: the tag.
        points: the number of points.
        first: the first value.
        last: the last value.
        last_step: the step of the last value.
        best: the smallest or the largest finite value, whichever is better; None if that is unknown or there is none.
        best_step: the step of the best value.
        nonfinite: the number of values that are NaN or Inf.
    """

    tag: str
    points: int
    first: float
    last: float
    last_step: int
    best: float | None
    best_step: int | None
    nonfinite: int


@dataclass(frozen=True)
class RunSummary:
    """What a reader wants to know first about a run."""

    name: str
    folder: str
    diagnosis: Diagnosis
    last_step: int
    status: str
    """`succeeded`, `failed`, or empty: see `Run`."""
    failure: str
    """That the training has failed, as a sentence; or empty."""
    seconds: float | None
    """Between the first and the last point; None if the log holds no times."""
    source: str
    curves: tuple[CurveSummary, ...]
    settings: Mapping[str, Any]
    families: Mapping[str, int]
    """The number of tags by their first part, such as `grad_norm`."""
    bad_steps: tuple[int, ...]
    """Steps whose batch was kept; `tbx-callbacks batch` shows them."""

    def text(self) -> str:
        """The summary, findings first, in at most 2,400 characters."""
        return fit(_lines(self))


def summarize(loaded_run: LoadedRun) -> RunSummary:
    """Summarizes a run."""
    run = loaded_run.run
    times = clock(run) if run.scalars else None
    settings = {name: value for name, value in hyper_parameters(run).items() if is_setting(name)}
    first = {name: settings[name] for name in _FIRST_SETTINGS if name in settings}
    return RunSummary(
        loaded_run.name,
        loaded_run.folder,
        loaded_run.diagnosis,
        run.last_step,
        run.status,
        run.failure_sentence,
        float(times.seconds[-1]) if times is not None and math.isfinite(times.started) else None,
        run.source_sentence,
        tuple(_curve(tag, series) for tag, series in _curves(run).items()),
        {**first, **settings},
        dict(sorted(Counter(_family(tag) for tag in (*run.scalars, *run.histograms, *run.texts)).items())),
        tuple(dict.fromkeys(batch.step for batch in loaded_run.bad_batches)),
    )


def _curves(run: Run) -> dict[str, Series]:
    found: dict[str, Series] = {}
    for need in (TRAIN_LOSS, GRAD_NORM, LEARNING_RATE):
        entry = need.first(run)
        if entry is not None:
            found[entry[0]] = entry[1]
    results = {tag: series for tag, series in run.scalars.items() if is_result(tag)}
    return {tag: series for tag, series in {**found, **results}.items() if len(series)}


def _curve(tag: str, series: Series) -> CurveSummary:
    is_finite = [math.isfinite(value) for value in series.values]
    larger = False if TRAIN_LOSS.matches(tag) else tags.larger_is_better(tag) if is_result(tag) else None
    finite = [index for index, known in enumerate(is_finite) if known]
    best = None
    if larger is not None and finite:
        best = max(finite, key=lambda index: series.values[index] if larger else -series.values[index])
    return CurveSummary(
        tag,
        len(series),
        float(series.values[0]),
        float(series.values[-1]),
        int(series.steps[-1]),
        None if best is None else float(series.values[best]),
        None if best is None else int(series.steps[best]),
        len(is_finite) - sum(is_finite),
    )


def _family(tag: str) -> str:
    return tag.split("/")[0]


def _lines(summary: RunSummary) -> Iterator[str]:
    verdict = summary.diagnosis.verdict
    failure = f"{summary.failure} " if summary.failure else ""
    yield f"run {summary.name}: {failure}{verdict.text}" + (f" {verdict.remedy}" if verdict.remedy else "")
    yield from findings_lines(summary.diagnosis.findings, 1300)
    if summary.bad_steps:
        steps = ", ".join(map(str, summary.bad_steps[:8]))
        yield f"kept batches of bad steps: {steps} (tbx-callbacks batch {summary.folder} {summary.bad_steps[0]})"
    length = "" if summary.seconds is None else f", {duration(summary.seconds)}"
    length += ", ended" if summary.status == "succeeded" else ""
    yield f"steps: {summary.last_step}{length}" + (f"; {summary.source}" if summary.source else "")
    for curve in summary.curves[:_MOST_CURVES]:
        yield _curve_line(curve)
    if summary.settings:
        shown = list(summary.settings.items())
        settings = ", ".join(f"{name}={format_value(value)}"[:60] for name, value in shown[:_MOST_SETTINGS])
        yield f"settings: {settings}" + _more(len(shown) - _MOST_SETTINGS)
    families = [f"{name} ({number})" for name, number in summary.families.items()]
    yield f"tags: {', '.join(families[:_MOST_FAMILIES])}" + _more(len(families) - _MOST_FAMILIES)
    known = [finding.finding.id for finding in summary.diagnosis.acknowledged]
    if known:
        yield f"acknowledged: {', '.join(dict.fromkeys(known))}"


def _curve_line(curve: CurveSummary) -> str:
    words = [f"{curve.tag}: {curve.first:.4g} -> {curve.last:.4g} at step {curve.last_step}"]
    if curve.best is not None:
        words.append(f"best {curve.best:.4g} at step {curve.best_step}")
    if curve.nonfinite:
        words.append(f"{curve.nonfinite} of {curve.points} values are NaN or Inf")
    return ", ".join(words)


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""
