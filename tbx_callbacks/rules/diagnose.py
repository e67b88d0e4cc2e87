"""All rules on one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.registry import RULES
from tbx_callbacks.runs.reader import Progress, UnreadableError, find_runs, read_run
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class Unjudged:
    """A rule that could not judge a run: what was missing, and the metric that would write it."""

    id: str
    missing: str
    metric: str


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a run, worst first, and which rules could not tell."""

    findings: tuple[Finding, ...]
    unjudged: tuple[Unjudged, ...]

    @property
    def healthy(self) -> bool:
        """Whether there is no finding of severity error."""
        return all(finding.severity != "error" for finding in self.findings)


def default_rules() -> dict[str, Rule]:
    """Every rule with its default thresholds."""
    return {name: rule() for name, rule in RULES.items()}


def diagnose(run: Run, rules: Mapping[str, Rule] | None = None) -> Diagnosis:
    """Asks every rule; the run may still grow, and be judged again."""
    rules = default_rules() if rules is None else rules
    missing = [unjudged for rule in rules.values() if (unjudged := _missing(rule, run)) is not None]
    silent = {unjudged.id for unjudged in missing}
    findings = [finding for name, rule in rules.items() if name not in silent for finding in rule(run)]
    return Diagnosis(tuple(sorted(findings, key=lambda finding: finding.rank)), tuple(missing))


def _missing(rule: Rule, run: Run) -> Unjudged | None:
    found = [need.all(run) for need in rule.needs]
    for need, series in zip(rule.needs, found, strict=True):
        if not series:
            return Unjudged(rule.id, f"{need.what} ({_example(need.patterns[0])})", need.metric)
    number, least = max(map(len, found[0].values())), getattr(rule, "min_points", 1)
    if number < least:
        first = rule.needs[0]
        return Unjudged(rule.id, f"{least} points of {first.what}, there are {number}", f"{first.metric}, more often")
    return None


def _example(pattern: str) -> str:
    """A pattern in a form for people."""
    return pattern.replace(r"(?!total$)", "").replace(".+", "...").replace(".*", "...").replace("\\", "")


@dataclass(frozen=True)
class DiagnosedRun:
    """One run and its diagnosis; `name` is its folder below the one that was given."""

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
    """Reads and judges every run in a folder; those without scalars (a folder of hyper-parameters) are left out.

    Args:
        logdir: a run's folder, or one with runs below it.
        rules: by name; all with their defaults when left out.
        progress: called with a run's name, gives what is called while it is read.

    Raises:
        UnreadableError: a folder cannot be read, or there is no scalar in any.
        ImportError: TensorBoard is not installed.
    """
    found = 0
    for name, folder in find_runs(logdir).items():
        run = read_run(folder, progress=progress(name) if progress else None)
        if run.scalars:
            found += 1
            yield DiagnosedRun(name, folder, run, diagnose(run, rules))
    if not found:
        raise UnreadableError(f"a run must hold scalars, but those in {os.fspath(logdir)!r} hold none")
