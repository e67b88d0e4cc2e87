"""Builds a `Comparison` of several runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks._text import short, some
from tbx_callbacks.comparison.curves import Parting, part
from tbx_callbacks.comparison.kinds import Kind, group_runs, kind_of_one, setting_text, settings_of
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.tables import hyper_parameters, is_result, json_of
from tbx_callbacks.rules.finding_text import named
from tbx_callbacks.rules.required_series import EVAL_ACCURACY, EVAL_LOSS, GRAD_NORM, LEARNING_RATE, TRAIN_LOSS, Need
from tbx_callbacks.runs.series import Run, Series

_NO_VERSIONS = ("command", "host", "cwd", "folder", "started", "pid", "user")
_BATCH = re.compile(r"(.*[_/.])?(batch_size|batch|gradient_accumulation_steps|world_size)")


@dataclass(frozen=True)
class Difference:
    """A setting, a version or a finding, and its value in each kind of run; an empty text where it has none."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """One curve in every kind of run.

    Attributes:
        tag: the tag, as the first kind logged it.
        ends: for each kind the mean of the runs' last values, and their standard deviation (NaN for a single run);
            None if it has no such curve.
        partings: how each further kind differs from the first; None if one of the two has no such curve.
    """

    tag: str
    ends: tuple[tuple[float, float] | None, ...]
    partings: tuple[Parting | None, ...]


@dataclass(frozen=True)
class Comparison:
    """The differences between kinds of runs; the first kind is the one that the others are compared with."""

    kinds: tuple[Kind, ...]
    settings: tuple[Difference, ...]
    versions: tuple[Difference, ...]
    findings: tuple[Difference, ...]
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]
    """What limits the comparison, one sentence each."""


def compare(runs: Sequence[LoadedRun], *, curves: str | None = None) -> Comparison:
    """Compares runs by kind.

    Args:
        runs: at least two runs.
        curves: regex of full tags to compare in addition to losses, results, gradient norm and learning rate.

    Raises:
        ValueError: there are fewer than two runs, or `curves` is no regex.
    """
    if len(runs) < 2:
        raise ValueError(f"compare needs at least two runs, got {len(runs)}; name a second folder")
    try:
        more = re.compile(curves) if curves is not None else None
    except re.error as error:
        raise ValueError(f"--curves must be a regex, got {short(curves)}: {error}") from error
    kinds = group_runs(runs)
    if len(kinds) == 1:
        kinds = [kind_of_one(run) for run in runs]  # nothing but seeds differs: compare the runs themselves
    settings = _differences(kinds, settings_of)
    return Comparison(
        tuple(kinds),
        settings,
        _differences(kinds, lambda run: _versions(run.run)),
        _findings(kinds),
        tuple(_curve(kinds, found) for found in _curves_of(kinds, more)),
        tuple(_notes(kinds, settings)),
    )


def _versions(run: Run) -> Mapping[str, Any]:
    return {name: value for name, value in json_of(run, tags.ENVIRONMENT).items() if name not in _NO_VERSIONS}


def _differences(kinds: Sequence[Kind], facts: Callable[[LoadedRun], Mapping[str, Any]]) -> tuple[Difference, ...]:
    """The facts that differ between kinds; different values within a kind are listed together."""
    by_kind = [[facts(run) for run in kind.runs] for kind in kinds]
    names = sorted({name for members in by_kind for known in members for name in known})
    found = {name: [[known[name] for known in members if name in known] for members in by_kind] for name in names}
    differing = {name: values for name, values in found.items() if len({frozenset(map(str, v)) for v in values}) > 1}
    return tuple(Difference(name, tuple(map(_joined, values))) for name, values in differing.items())


def _joined(values: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(map(setting_text, values)))


def _findings(kinds: Sequence[Kind]) -> tuple[Difference, ...]:
    """All findings, worst first, with the step where they begin, or the number of runs that have them."""
    all_findings = [finding for kind in kinds for run in kind.runs for finding in run.diagnosis.findings]
    titles = dict.fromkeys(f"{finding.severity} {named(finding)}" for finding in sorted(all_findings, key=_rank))
    return tuple(Difference(title, tuple(_in_kind(kind, title) for kind in kinds)) for title in titles)


def _rank(finding: Any) -> tuple[int, int]:
    rank: tuple[int, int] = finding.rank
    return rank


def _in_kind(kind: Kind, title: str) -> str:
    steps = [
        next((found.steps[:1] for found in run.diagnosis.findings if f"{found.severity} {named(found)}" == title), None)
        for run in kind.runs
    ]
    present = [step for step in steps if step is not None]
    if len(kind.runs) > 1:
        return f"{len(present)} of {len(kind.runs)} runs" if present else ""
    return (f"step {present[0][0]}" if present[0] else "yes") if present else ""


def _curves_of(kinds: Sequence[Kind], more: re.Pattern[str] | None) -> list[tuple[str, Callable[[Run], Series | None]]]:
    """The names of the curves to compare, with a function that finds each in a run."""
    first = [run.run for kind in kinds for run in kind.runs]
    found: list[tuple[str, Callable[[Run], Series | None]]] = []
    for need in (TRAIN_LOSS, EVAL_LOSS, EVAL_ACCURACY, GRAD_NORM, LEARNING_RATE):
        series = next((series for series in map(need.first, first) if series is not None), None)
        if series is not None:
            found.append((series[0], _of_need(need)))
    named_tags = {tag for tag, _ in found}
    other = dict.fromkeys(tag for run in first for tag in run.scalars if tag not in named_tags)
    wanted = [tag for tag in other if is_result(tag) or (more is not None and more.fullmatch(tag))]
    return found + [(tag, _of_tag(tag)) for tag in wanted]


def _of_need(need: Need) -> Callable[[Run], Series | None]:
    def find(run: Run) -> Series | None:
        series = need.first(run)
        return series[1] if series else None

    return find


def _of_tag(tag: str) -> Callable[[Run], Series | None]:
    return lambda run: run.scalars.get(tag)


def _curve(kinds: Sequence[Kind], found: tuple[str, Callable[[Run], Series | None]]) -> Curve:
    tag, find = found
    by_kind = [[series for run in kind.runs if (series := find(run.run)) is not None and len(series)] for kind in kinds]
    ends = tuple(_end(members) if members else None for members in by_kind)
    partings = tuple(part(by_kind[0], members) if by_kind[0] and members else None for members in by_kind[1:])
    return Curve(tag, ends, partings)


def _end(members: Sequence[Series]) -> tuple[float, float]:
    last = np.array([series.values[-1] for series in members])
    return float(last.mean()), float(last.std(ddof=1)) if len(last) > 1 else math.nan


def _notes(kinds: Sequence[Kind], settings: Sequence[Difference]) -> list[str]:
    notes = [f"{one.name}: {one.run.failure_sentence}" for kind in kinds for one in kind.runs if one.run.is_failed]
    batch = [row.name for row in settings if _BATCH.fullmatch(row.name) and all(row.values)]
    if batch:
        notes.append(
            f"Curves are compared step by step, but {', '.join(batch[:3])} differs: steps have other numbers of rows."
        )
    runs = [run for kind in kinds for run in kind.runs]
    if len({run.run.last_step for run in runs}) > 1:
        ends = some([f"{run.name} {run.run.last_step}" for run in runs], 3, "run")
        notes.append(f"The runs end at different steps ({ends}): their last values are those of different steps.")
    unknown = [run.name for run in runs if not hyper_parameters(run.run)]
    if unknown:
        names = some(unknown, 3, "run")
        notes.append(f"The logs of {names} hold no hyper-parameters; differences of settings are unknown.")
    no_versions = [run.name for run in runs if not json_of(run.run, tags.ENVIRONMENT)]
    if no_versions:
        names = some(no_versions, 3, "run")
        notes.append(f"The logs of {names} hold no versions of packages.")
    return notes
