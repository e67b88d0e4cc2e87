"""Applies all rules to a run, or to every run in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tbx_callbacks._extensions import OUTSIDE_ERRORS, ExtensionError, outside_code
from tbx_callbacks._text import printable, reason, words
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.registry import RULE_CLASSES, create_rule
from tbx_callbacks.runs.reader import Progress, UnreadableError, find_runs, read_run
from tbx_callbacks.runs.series import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unjudged:
    """A rule that could not judge a run: the missing series, and the metric that writes it."""

    id: str
    missing: str
    metric: str


@dataclass(frozen=True)
class Diagnosis:
    """The findings of a run, worst first, and the rules that could not judge it."""

    findings: tuple[Finding, ...]
    unjudged: tuple[Unjudged, ...]

    @property
    def healthy(self) -> bool:
        """Whether there is no finding of severity error."""
        return all(finding.severity != "error" for finding in self.findings)


def default_rules() -> dict[str, Rule]:
    """Returns every rule with its default thresholds, those of entry points included.

    A rule of another package that cannot be created costs one warning.
    """
    rules: dict[str, Rule] = {}
    for name, cls in RULE_CLASSES.all().items():
        try:
            with outside_code("it cannot be created: "):
                rules[name] = create_rule(name, cls)
        except ExtensionError as error:
            RULE_CLASSES.skip(name, str(error))
    return rules


def diagnose(
    run: Run,
    rules: Mapping[str, Rule] | None = None,
    *,
    on_error: Callable[[str, BaseException], None] | None = None,
) -> Diagnosis:
    """Applies every rule; a growing run can be diagnosed again and again.

    Args:
        run: the run.
        rules: rules by name; by default all rules with their default thresholds.
        on_error: called with the name and the error of a rule that fails; None raises the error.
    """
    rules = default_rules() if rules is None else rules
    findings: list[Finding] = []
    unjudged: list[Unjudged] = []
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
            on_error(name, error)
    return Diagnosis(tuple(sorted(findings, key=_rank)), tuple(unjudged))


def _findings(rule: Rule, run: Run) -> list[Finding]:
    with np.errstate(all="ignore"):  # absurd numbers in a file are no warnings of ours
        found: Any = rule(run)
        if found is None or isinstance(found, Finding):
            raise TypeError(f"a rule must yield findings, got {type(found).__name__}; use yield Finding(...)")
        findings = list(found)
    for finding in findings:
        if not isinstance(finding, Finding):
            raise TypeError(f"a rule must yield findings, got {type(finding).__name__}; yield Finding(...)")
    return findings


def _rank(finding: Finding) -> tuple[int, int]:
    return finding.rank


def _find_missing(rule: Rule, run: Run) -> Unjudged | None:
    series_by_need = [need.all(run) for need in rule.needs]
    for need, series in zip(rule.needs, series_by_need, strict=True):
        if not series:
            return Unjudged(rule.id, f"{need.what} ({_example(need.patterns[0])})", need.metric)
    number, min_points = max(map(len, series_by_need[0].values())), getattr(rule, "min_points", 1)
    if number < min_points:
        first = rule.needs[0]
        return Unjudged(
            rule.id, f"{min_points} points of {first.what}, there are {number}", f"{first.metric}, more often"
        )
    return None


def _example(pattern: str) -> str:
    """Returns a pattern in a readable form."""
    return pattern.replace(r"(?!total$)", "").replace(".+", "...").replace(".*", "...").replace("\\", "")


@dataclass(frozen=True)
class DiagnosedRun:
    """One run and its diagnosis; `name` is its folder relative to the given one."""

    name: str
    folder: str
    run: Run
    diagnosis: Diagnosis


def diagnose_folder(
    logdir: str | os.PathLike[str],
    *,
    rules: Mapping[str, Rule] | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Iterator[DiagnosedRun]:
    """Reads and diagnoses every run in a folder; runs without scalars (only hyper-parameters) are left out.

    A run that cannot be read is left out with a warning.

    Args:
        logdir: folder of a run, or a folder with runs below it.
        rules: rules by name; by default all rules with their default thresholds.
        progress: called with a run's name; returns a function that is called while the run is read.

    Raises:
        UnreadableError: no run can be read, or none has scalars.
        ImportError: TensorBoard is not installed.
    """
    number, failed, unreadable = 0, set[str](), list[str]()

    def warn(rule: str, error: BaseException) -> None:
        if rule not in failed:
            failed.add(rule)
            logger.warning(
                "rule %s is left out: it failed with %s; fix it, or switch it off with --rules", rule, reason(error)
            )

    for name, folder in find_runs(logdir).items():
        try:
            run = read_run(folder, progress=progress(name) if progress else None)
        except UnreadableError as error:
            unreadable.append(words(error))
            logger.warning("run %s is left out: %s", printable(name), printable(words(error)))
            continue
        if run.scalars:
            number += 1
            yield DiagnosedRun(name, folder, run, diagnose(run, rules, on_error=warn))
    if not number and unreadable:
        raise UnreadableError(f"no run in {os.fspath(logdir)!r} can be read: {unreadable[0]}")
    if not number:
        raise UnreadableError(f"a run must hold scalars, but those in {os.fspath(logdir)!r} hold none")
