"""Builds the tables and texts of a report."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks._text import count, short
from tbx_callbacks.report.columns import EXACT
from tbx_callbacks.report.loaded_runs import LoadedRun, clock
from tbx_callbacks.rules import SEVERITIES, Finding
from tbx_callbacks.rules.finding_text import evidence
from tbx_callbacks.rules.required_series import EVAL_ACCURACY, EVAL_LOSS, TRAIN_LOSS
from tbx_callbacks.runs.folders import is_remote
from tbx_callbacks.runs.series import Run
from tbx_callbacks.tags import CALIBRATION, EVALUATION, larger_is_better

_NON_RESULT_SUFFIXES = ("runtime", "per_second", "model_preparation_time", "num_tokens")
_LONGEST_CELL = 2_000
MAX_TEXT = 20_000  # characters of a logged text in the page
_MAX_EVIDENCE = 3  # tags, and numbers, beside a finding
_MAX_RESULTS, _MAX_DIFFERENCES = 6, 6  # columns of the table of many runs, beside steps and duration
_KNOWN_TEXTS = (tags.ARGS, tags.MODEL_CONFIG, tags.ENVIRONMENT, tags.NONFINITE_FIRST_BAD)


@dataclass(frozen=True)
class Row:
    """A row of a table of runs: its name, and a cell for each run; `best` holds the indices of the best runs."""

    name: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Numbered:
    """A finding with its number in the report."""

    number: int
    finding: Finding
    evidence: str


def findings(loaded_runs: Sequence[LoadedRun]) -> list[list[Numbered]]:
    """The findings of each run, worst first, numbered consecutively."""
    numbered, start = [], 1
    for loaded_run in loaded_runs:
        run_findings = loaded_run.diagnosis.findings
        numbered.append(
            [Numbered(start + n, finding, evidence(finding, _MAX_EVIDENCE)) for n, finding in enumerate(run_findings)]
        )
        start += len(run_findings)
    return numbered


def differences(loaded_runs: Sequence[LoadedRun]) -> list[Row]:
    """Hyper-parameters that differ between runs."""
    by_run = [hyper_parameters(loaded_run.run) for loaded_run in loaded_runs]
    names = sorted(set().union(*by_run) - {"output_dir", "logging_dir", "run_name", "trial_name"})
    rows = [Row(name, tuple(format_value(params.get(name, "")) for params in by_run)) for name in names]
    return [row for row in rows if len(set(row.cells)) > 1]


def results(loaded_runs: Sequence[LoadedRun]) -> list[Row]:
    """Losses, the main metric, the other evaluation metrics, steps and duration of each run."""
    names = dict.fromkeys(tag for loaded_run in loaded_runs for tag in loaded_run.run.scalars if is_result(tag))
    losses = {tag for loaded_run in loaded_runs for tag in EVAL_LOSS.all(loaded_run.run)}
    main = main_metric(loaded_runs, list(names))
    last = [_last_loss(loaded_run.run) for loaded_run in loaded_runs]
    rows = [Row("train loss, last", tuple(last))] if any(last) else []
    rows += [_best_row(loaded_runs, tag) for tag in sorted(names, key=lambda tag: (tag not in losses, tag != main))]
    clocks = [clock(loaded_run.run) for loaded_run in loaded_runs]
    rows.append(Row("steps", tuple(f"{loaded_run.run.last_step:,}" for loaded_run in loaded_runs)))
    rows.append(Row("duration", tuple(duration(float(entry.seconds[-1])) for entry in clocks)))
    return rows


def main_metric(loaded_runs: Sequence[LoadedRun], result_tags: Sequence[str]) -> str | None:
    """The metric that chooses the best checkpoint; else an accuracy, or else the first one that is better if larger."""
    for loaded_run in loaded_runs:
        chosen = {**json_of(loaded_run.run, tags.ARGS), **loaded_run.run.hparams}.get("metric_for_best_model")
        name = str(chosen or "").removeprefix("eval_").removeprefix("eval/")
        found = [tag for tag in result_tags if tag in (f"{tags.EVAL}/{name}", chosen)]
        if found:
            return found[0]
    accuracies = {tag for loaded_run in loaded_runs for tag in EVAL_ACCURACY.all(loaded_run.run)}
    ranked = [tag for tag in result_tags if tag in accuracies] + [tag for tag in result_tags if larger_is_better(tag)]
    return ranked[0] if ranked else None


def run_table(loaded_runs: Sequence[LoadedRun]) -> tuple[list[Row], int]:
    """The columns of a table with one line for each run, and the number of columns that are left out.

    Findings, results and differing hyper-parameters; the results of one step only have their number.
    """
    counts = [
        [(severity, sum(f.severity == severity for f in loaded_run.diagnosis.findings)) for severity in SEVERITIES]
        for loaded_run in loaded_runs
    ]
    words = {"too_little": "too little data"}
    found = [
        ", ".join(count(number, severity) for severity, number in each if number)
        or words.get(loaded_run.diagnosis.verdict.kind, "none")
        for each, loaded_run in zip(counts, loaded_runs, strict=True)
    ]
    all_results, differing = results(loaded_runs), differences(loaded_runs)
    shown = [*all_results[:_MAX_RESULTS], *all_results[max(_MAX_RESULTS, len(all_results) - 2) :]]
    left_out = len(all_results) - len(shown) + max(0, len(differing) - _MAX_DIFFERENCES)
    return [Row("findings", tuple(found)), *shown, *differing[:_MAX_DIFFERENCES]], left_out


def hyper_parameters(run: Run) -> Mapping[str, Any]:
    """The hyper-parameters of the HParams tab, or else those in the logged arguments."""
    return run.hparams or {
        name: value for name, value in json_of(run, tags.ARGS).items() if not isinstance(value, dict)
    }


def model(run: Run) -> Mapping[str, Any]:
    """The model's configuration."""
    return json_of(run, tags.MODEL_CONFIG)


def environment(loaded_run: LoadedRun) -> Mapping[str, str]:
    """Facts about a run's time, place and software, as far as they were logged."""
    entry, fields = clock(loaded_run.run), json_of(loaded_run.run, tags.ENVIRONMENT)
    has_times = math.isfinite(entry.started)
    source = loaded_run.run.source_sentence.removeprefix("read from ")
    facts = {
        "folder": loaded_run.folder,
        **({"read from": source} if source else {}),
        "started": _date(entry.started) if has_times else "unknown: the log holds no times",
        "last point after": duration(float(entry.seconds[-1])) if has_times else "unknown: the log holds no times",
        "steps": f"{loaded_run.run.last_step:,}",
        "end": {"succeeded": "ended", "failed": "failed, or interrupted"}.get(loaded_run.run.status, "unknown"),
        "scalar tags": str(len(loaded_run.run.scalars)),
        "histogram tags": str(len(loaded_run.run.histograms)),
    }
    for file, missing in loaded_run.run.unread.items():
        facts[f"truncated: {file}"] = f"{missing} bytes at its end are not readable"
    for number, words in enumerate(loaded_run.run.left_out, 1):
        facts[f"left out, {number}"] = words
    ends = [series.steps[[0, -1]].astype(np.float64) for series in loaded_run.run.scalars.values()]
    if np.abs(ends).max() > EXACT:
        facts["large steps"] = "steps above 2^53 are rounded in the charts: browsers have no larger exact numbers"
    return facts | {name: format_value(value) for name, value in fields.items()}


def texts(run: Run, *, without: frozenset[str] = frozenset()) -> Mapping[str, str]:
    """The last text of each other tag."""
    shown = run.texts.keys() - without - {*_KNOWN_TEXTS}
    return {tag: entry.values[-1][:MAX_TEXT] for tag, entry in run.texts.items() if tag in shown}


def single_values(loaded_runs: Sequence[LoadedRun]) -> list[Row]:
    """Scalars with a single point in every run that has them, such as results on the test split."""
    tags = dict.fromkeys(
        tag for loaded_run in loaded_runs for tag, entry in loaded_run.run.scalars.items() if len(entry) == 1
    )
    series_by_tag = {
        tag: [loaded_run.run.scalars.get(tag) for loaded_run in loaded_runs] for tag in tags if not is_result(tag)
    }
    return [
        Row(tag, tuple(format_value(float(entry.values[0])) if entry else "" for entry in series))
        for tag, series in series_by_tag.items()
        if all(entry is None or len(entry) == 1 for entry in series)
    ][:60]


def format_value(value: object) -> str:
    """Formats a value for a table."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_CELL else f"{value[:_LONGEST_CELL]}..."
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return short(value, _LONGEST_CELL)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _date(started: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(started)) if math.isfinite(started) else "unknown"


def duration(seconds: float) -> str:
    """Formats seconds as a duration."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def relative_path(folder: str) -> str:
    """The folder, relative to the working directory if it is below it."""
    path = folder if is_remote(folder) else os.path.relpath(folder)
    return folder if path.startswith("..") else path


def is_result(tag: str) -> bool:
    """Whether a tag holds a result of an evaluation, not its duration."""
    is_evaluated = tag.startswith((*EVALUATION, "test/")) and f"/{CALIBRATION}/" not in tag
    return is_evaluated and not tag.endswith(_NON_RESULT_SUFFIXES)


def _best(run: Run, tag: str) -> tuple[float, int] | None:
    """The best value and its step; the last one, finite or not, if it is unknown which values are better."""
    series = run.scalars.get(tag)
    values = series.values if series is not None else np.empty(0)
    finite = np.isfinite(values)
    if series is None or not finite.any():
        return None
    larger = larger_is_better(tag)
    if larger is None:
        index = len(values) - 1
    else:
        index = int(np.argmax(np.where(finite, values if larger else -values, -np.inf)))
    return float(values[index]), int(series.steps[index])


def _best_row(loaded_runs: Sequence[LoadedRun], tag: str) -> Row:
    """The best value with its step; without the step if the value was logged once. See `_best`."""
    best_by_run = [_best(loaded_run.run, tag) for loaded_run in loaded_runs]
    values, larger = [entry[0] for entry in best_by_run if entry is not None], larger_is_better(tag)
    best_value = math.nan if larger is None else max(values, key=lambda v: v if larger else -v, default=math.nan)
    best = frozenset(index for index, entry in enumerate(best_by_run) if entry and entry[0] == best_value)
    has_series = any(len(loaded_run.run.scalars.get(tag, ())) > 1 for loaded_run in loaded_runs)
    cells = tuple(
        _decimal(entry[0]) + (f" (step {entry[1]:,})" if has_series else "") if entry else "" for entry in best_by_run
    )
    kind = "last" if larger is None else "best"
    return Row(f"{tag}, {kind}" if has_series else tag, cells, best if len(set(values)) > 1 else frozenset())


def _last_loss(run: Run) -> str:
    """The last training loss. A trainer may leave NaN and Inf out of the loss that it logs: then their count tells."""
    train, nonfinite = TRAIN_LOSS.first(run), run.scalars.get(tags.NONFINITE_LOSSES)
    if train is None:
        return ""
    last = float(train[1].values[-1])
    is_hidden = math.isfinite(last) and nonfinite is not None and len(nonfinite) > 0 and nonfinite.values[-1] > 0
    return _decimal(last) + (" (without NaN and Inf)" if is_hidden else "")


def _decimal(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"


def json_of(run: Run, tag: str) -> dict[str, Any]:
    """Parses the JSON object in a text (a Markdown block); empty if there is none."""
    series = run.texts.get(tag)
    match = re.search(r"\{.*\}", series.values[-1], re.DOTALL) if series is not None else None
    try:
        fields = json.loads(match[0]) if match else {}
    except (ValueError, RecursionError):  # no JSON, or too deep
        return {}
    return fields if isinstance(fields, dict) else {}
