"""What a report says in words and tables."""

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
from tbx_callbacks.report.loaded_runs import LoadedRun, clock
from tbx_callbacks.rules import Finding
from tbx_callbacks.rules.needs import TRAIN_LOSS
from tbx_callbacks.runs.series import Run
from tbx_callbacks.tags import EVALUATION, larger_is_better

_NO_RESULT = ("runtime", "per_second", "model_preparation_time", "num_tokens")
_KNOWN_TEXTS = (tags.ARGS, tags.MODEL_CONFIG, tags.ENVIRONMENT, tags.NONFINITE_FIRST_BAD)


@dataclass(frozen=True)
class Row:
    """A row of a table of runs: what, and its value for each run; `best` are the places of the best ones."""

    name: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Numbered:
    """A finding with its number in the report."""

    number: int
    finding: Finding
    evidence: str


def findings(subjects: Sequence[LoadedRun]) -> list[list[Numbered]]:
    """The findings of each run, worst first, numbered through."""
    numbered, start = [], 1
    for subject in subjects:
        found = subject.diagnosis.findings
        numbered.append([Numbered(start + n, finding, _evidence(finding)) for n, finding in enumerate(found)])
        start += len(found)
    return numbered


def differences(subjects: Sequence[LoadedRun]) -> list[Row]:
    """Hyper-parameters that are not the same in all runs."""
    by_run = [hyper_parameters(subject.run) for subject in subjects]
    names = sorted(set().union(*by_run) - {"output_dir", "logging_dir", "run_name", "trial_name"})
    rows = [Row(name, tuple(shown(given.get(name, "")) for given in by_run)) for name in names]
    return [row for row in rows if len(set(row.cells)) > 1]


def results(subjects: Sequence[LoadedRun]) -> list[Row]:
    """Each evaluation metric's best value, the last training loss, steps and duration, of each run."""
    tags = dict.fromkeys(tag for subject in subjects for tag in subject.run.scalars if _is_result(tag))
    rows = [_best_row(subjects, tag) for tag in tags]
    last = [_last_loss(subject.run) for subject in subjects]
    if any(last):
        rows.append(Row("train loss, last", tuple(last)))
    clocks = [clock(subject.run) for subject in subjects]
    rows.append(Row("steps", tuple(f"{subject.run.last_step:,}" for subject in subjects)))
    rows.append(Row("duration", tuple(duration(float(one.seconds[-1])) for one in clocks)))
    return rows


def hyper_parameters(run: Run) -> Mapping[str, Any]:
    """What the HParams tab has, or else what the arguments say."""
    return run.hparams or {name: value for name, value in _json_of(run, "args").items() if not isinstance(value, dict)}


def model(run: Run) -> Mapping[str, Any]:
    """The model's configuration."""
    return _json_of(run, "model_config")


def environment(subject: LoadedRun) -> Mapping[str, str]:
    """Where and when a run was made, as far as it says."""
    one, said = clock(subject.run), _json_of(subject.run, "environment")
    facts = {
        "folder": subject.folder,
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(one.started)),
        "last point after": duration(float(one.seconds[-1])),
        "steps": f"{subject.run.last_step:,}",
        "scalar tags": str(len(subject.run.scalars)),
        "histogram tags": str(len(subject.run.histograms)),
    }
    for file, missing in subject.run.unread.items():
        facts[f"cut off: {file}"] = f"{missing} bytes at its end are not read"
    return facts | {name: shown(value) for name, value in said.items()}


def texts(run: Run, most: int = 20_000) -> Mapping[str, str]:
    """The last text of each other tag."""
    return {tag: one.values[-1][:most] for tag, one in run.texts.items() if tag not in _KNOWN_TEXTS}


def once(subjects: Sequence[LoadedRun]) -> list[Row]:
    """Scalars with one point in every run that has them, such as the results on the test split."""
    tags = dict.fromkeys(tag for subject in subjects for tag, one in subject.run.scalars.items() if len(one) == 1)
    found = {tag: [subject.run.scalars.get(tag) for subject in subjects] for tag in tags if not _is_result(tag)}
    return [
        Row(tag, tuple(shown(float(one.values[0])) if one else "" for one in series))
        for tag, series in found.items()
        if all(one is None or len(one) == 1 for one in series)
    ][:60]


def shown(value: object) -> str:
    """A value in a table."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def relative(folder: str) -> str:
    """A folder, from here where it is below."""
    path = folder if "://" in folder else os.path.relpath(folder)
    return folder if path.startswith("..") else path


def _evidence(finding: Finding, most: int = 3) -> str:
    more = f" and {len(finding.tags) - most} more" if len(finding.tags) > most else ""
    numbers = [f"{name} {number:.4g}" for name, number in list(finding.numbers.items())[:most]]
    return ", ".join(finding.tags[:most]) + more + (f": {', '.join(numbers)}" if numbers else "")


def _is_result(tag: str) -> bool:
    return tag.startswith((*EVALUATION, "test/")) and not tag.endswith(_NO_RESULT)


def _best(run: Run, tag: str) -> tuple[float, int] | None:
    series = run.scalars.get(tag)
    values = series.values if series is not None else np.empty(0)
    finite = np.isfinite(values)
    if series is None or not finite.any():
        return None
    place = int(np.argmax(np.where(finite, values if larger_is_better(tag) else -values, -np.inf)))
    return float(values[place]), int(series.steps[place])


def _best_row(subjects: Sequence[LoadedRun], tag: str) -> Row:
    """The best value and its step; only the value where it was logged once."""
    found = [_best(subject.run, tag) for subject in subjects]
    values = [one[0] for one in found if one is not None]
    winner = max(values, key=lambda value: value if larger_is_better(tag) else -value, default=math.nan)
    best = frozenset(place for place, one in enumerate(found) if one and one[0] == winner)
    often = any(len(subject.run.scalars.get(tag, ())) > 1 for subject in subjects)
    cells = tuple(f"{one[0]:.4f}" + (f" (step {one[1]:,})" if often else "") if one else "" for one in found)
    return Row(f"{tag}, best" if often else tag, cells, best if len(set(values)) > 1 else frozenset())


def _last_loss(run: Run) -> str:
    train = TRAIN_LOSS.first(run)
    return f"{train[1].values[-1]:.4f}" if train and math.isfinite(train[1].values[-1]) else ("NaN" if train else "")


def _json_of(run: Run, tag: str) -> dict[str, Any]:
    """What a text holds as JSON, in a block of markdown; nothing where it does not."""
    series = run.texts.get(tag)
    found = re.search(r"\{.*\}", series.values[-1], re.DOTALL) if series is not None else None
    try:
        said = json.loads(found[0]) if found else {}
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
