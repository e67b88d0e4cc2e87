"""Applies all rules to a run, or to every run in a folder."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tbx_callbacks._extensions import OUTSIDE_ERRORS, ExtensionError, outside_code
from tbx_callbacks._text import printable, reason, words
from tbx_callbacks.rules.acknowledged import AcknowledgedFinding, Acknowledgement, split
from tbx_callbacks.rules.base import Finding, Rule, Unjudged
from tbx_callbacks.rules.folder_roles import Roles
from tbx_callbacks.rules.registry import RULE_CLASSES, code_of, create_rule
from tbx_callbacks.rules.required_series import Need
from tbx_callbacks.rules.verdict import DECISIVE, Verdict, verdict_of
from tbx_callbacks.runs.reader import Progress, UnreadableError, find_runs, read_run
from tbx_callbacks.runs.series import Run, Series

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Diagnosis:
    """The findings of a run, worst first, the rules that could not judge it, and the verdict.

    `acknowledged` are findings that the project knows of; they count for nothing else.
    """

    findings: tuple[Finding, ...]
    unjudged: tuple[Unjudged, ...]
    verdict: Verdict
    acknowledged: tuple[AcknowledgedFinding, ...] = ()


def default_rules() -> dict[str, Rule]:
    """Returns every rule with its default thresholds, those of entry points included.

    A rule of another package that cannot be created, or has the code of another one, costs one warning.
    """
    rules: dict[str, Rule] = {}
    with_code: dict[str, str] = {}
    for name, cls in RULE_CLASSES.all().items():
        try:
            with outside_code("it cannot be created: "):
                rule = create_rule(name, cls)
            if (code := code_of(rule)) and (first := with_code.setdefault(code, name)) != name:
                raise ExtensionError(f"code must be unique, got {code}, the code of {first}; choose another number")
            rules[name] = rule
        except ExtensionError as error:
            RULE_CLASSES.skip(name, str(error))
    return rules


def diagnose(
    run: Run,
    rules: Mapping[str, Rule] | None = None,
    *,
    acknowledged: Sequence[Acknowledgement] = (),
    folder: str = "",
    on_error: Callable[[str, BaseException], None] | None = None,
    decisive: Sequence[Sequence[str]] = DECISIVE,
) -> Diagnosis:
    """Applies every rule; a growing run can be diagnosed again and again.

    Args:
        run: the run.
        rules: rules by name; by default all rules with their default thresholds.
        acknowledged: findings that the project knows of.
        folder: the run's folder, for acknowledgements of some runs.
        on_error: called with the name and the error of a rule that fails; None raises the error.
        decisive: groups of rules; one of each must have judged, or there is too little to judge.
    """
    rules = default_rules() if rules is None else rules
    findings: list[Finding] = []
    unjudged: list[Unjudged] = []
    failed: list[str] = []
    for name, rule in rules.items():
        try:
            missing = _find_missing(rule, run)
            if missing is None:
                findings += sorted(_findings(rule, run), key=_rank)
            else:
                unjudged.append(missing)
        except OUTSIDE_ERRORS as error:  # code from outside may raise anything
            if on_error is None:
                raise
            failed.append(name)
            on_error(name, error)
    findings.sort(key=_rank)
    open_findings, known = split(findings, acknowledged, folder)
    verdict = verdict_of(open_findings, unjudged, failed, rules, decisive, num_acknowledged=len(known))
    return Diagnosis(tuple(open_findings), tuple(unjudged), verdict, tuple(known))


def _findings(rule: Rule, run: Run) -> list[Finding]:
    with np.errstate(all="ignore"):  # absurd numbers in a file are no warnings of ours
        found: Any = rule(run)
        if found is None or isinstance(found, Finding):
            raise TypeError(f"a rule must yield findings, got {type(found).__name__}; use yield Finding(...)")
        findings = list(found)
    for finding in findings:
        if not isinstance(finding, Finding):
            raise TypeError(f"a rule must yield findings, got {type(finding).__name__}; yield Finding(...)")
    return [finding if finding.code else dataclasses.replace(finding, code=code_of(rule)) for finding in findings]


def _rank(finding: Finding) -> tuple[int, int]:
    return finding.rank


def _find_missing(rule: Rule, run: Run) -> Unjudged | None:
    series_by_need = [need.all(run) for need in rule.needs]
    for need, series in zip(rule.needs, series_by_need, strict=True):
        if not series:
            return Unjudged(rule.id, f"{need.what} ({_example(need)})", need.metric)
    first, min_points = rule.needs[0], getattr(rule, "min_points", None)
    if min_points is not None:
        number = max(map(_num_finite, series_by_need[0].values()))
        if number < min_points:
            missing = f"{min_points:g} points of {first.what}, there are {number}"
            return Unjudged(rule.id, missing, _logged(first.metric, "more often"))
    # A rule need not derive from Rule.
    if (wanted := rule.excludes(run) if hasattr(rule, "excludes") else None) is not None:
        return Unjudged(rule.id, wanted, "", applies=False)
    lacks = rule.lacks(run) if hasattr(rule, "lacks") else None
    return Unjudged(rule.id, lacks, _logged(first.metric, "for longer or more often")) if lacks is not None else None


def _logged(metric: str, how: str) -> str:
    """The metric and how to log it, before what the metric needs: `loss more often, with trl's trainer`."""
    name, comma, needed = metric.partition(",")
    return f"{name} {how}{comma}{needed}"


def _num_finite(series: Series) -> int:
    return int(np.isfinite(series.values).sum())


def _example(need: Need) -> str:
    """Returns a tag of a need in a readable form."""
    pattern = need.example or need.patterns[0]
    return pattern.replace(r"(?!total$)", "").replace(".+", "...").replace(".*", "...").replace("\\", "")


@dataclass(frozen=True)
class DiagnosedRun:
    """One run and its diagnosis; `name` is its folder relative to the given one.

    `run` is what the folder holds. A diagnosis may also cover evaluations in a folder beside it.
    """

    name: str
    folder: str
    run: Run
    diagnosis: Diagnosis


def diagnose_folder(
    logdir: str | os.PathLike[str],
    *,
    rules: Mapping[str, Rule] | None = None,
    acknowledged: Sequence[Acknowledgement] = (),
    progress: Callable[[str], Progress] | None = None,
    on_unreadable: Callable[[str], object] | None = None,
) -> Iterator[DiagnosedRun]:
    """Reads and diagnoses every run in a folder; runs without scalars and histograms (only texts) are left out.

    A run of histograms only is one that no rule can judge. A run that cannot be read is left out with a warning.

    Args:
        logdir: folder of a run, or a folder with runs below it.
        rules: rules by name; by default all rules with their default thresholds.
        acknowledged: findings that the project knows of.
        progress: called with a run's name; returns a function that is called while the run is read.
        on_unreadable: called with the name of a run that is left out because it cannot be read.

    Raises:
        UnreadableError: no run can be read, or none has scalars or histograms.
        ImportError: TensorBoard is not installed.
    """
    number, failed = 0, set[str]()

    def warn(rule: str, error: BaseException) -> None:
        if rule not in failed:
            failed.add(rule)
            logger.warning(
                "rule %s is left out: it failed with %s; fix it, or switch it off with --rules", rule, reason(error)
            )

    reader = _Reader(find_runs(logdir), progress)
    for name, folder in reader.folders.items():
        run = reader.read(name)
        if run is not None and (run.scalars or run.histograms):  # add_hparams writes a run for each session
            number += 1
            judged = reader.with_role(name, run)
            diagnosis = diagnose(judged, rules, acknowledged=acknowledged, folder=folder, on_error=warn)
            yield DiagnosedRun(name, folder, run, diagnosis)
        elif run is None and on_unreadable is not None:
            on_unreadable(name)
        reader.forget(name)
    if not number and reader.unreadable:
        raise UnreadableError(f"no run in {os.fspath(logdir)!r} can be read: {reader.unreadable[0]}")
    if not number:
        raise UnreadableError(f"a run must hold scalars, but those in {os.fspath(logdir)!r} hold none")


class _Reader:
    """Reads each run once; a training run is judged together with its evaluations in other folders.

    Args:
        folders: the runs' folders by name.
        progress: called with a run's name; returns a function that is called while the run is read.
    """

    def __init__(self, folders: Mapping[str, str], progress: Callable[[str], Progress] | None) -> None:
        self.folders, self.unreadable = folders, list[str]()
        self._progress = progress
        self._runs: dict[str, Run | None] = {}  # None: it cannot be read
        self._judged = set[str]()
        self._roles = Roles(folders)

    def read(self, name: str) -> Run | None:
        """Returns a run; None, after a warning, if it cannot be read."""
        if name not in self._runs:
            try:
                progress = self._progress(name) if self._progress else None
                self._runs[name] = read_run(self.folders[name], progress=progress)
            except UnreadableError as error:
                self._runs[name] = None
                self.unreadable.append(words(error))
                shown = self.folders[name] if name == "." else name
                logger.warning("run %s is left out: %s", printable(shown), printable(words(error)))
        return self._runs[name]

    def with_role(self, name: str, run: Run) -> Run:
        """Returns what the rules judge: a run of evaluations with tags that say so, a training with its evaluations."""
        return self._roles.judged(name, run, self.read)

    def forget(self, name: str) -> None:
        """Frees the memory of a run that was judged, and of its evaluations, as far as no later run needs them."""
        self._judged.add(name)
        for other in (name, *self._roles.evaluations(name)):
            if other in self._judged and self._roles.training(other) in self._judged:
                self._runs.pop(other, None)
