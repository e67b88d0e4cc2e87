"""Trains each planted fault and healthy run, and reports the findings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tbx_callbacks._config.rule_options import thresholds
from tbx_callbacks.rules import RULES, Diagnosis, diagnose
from tbx_callbacks.rules.finding_text import PREFIX
from tbx_callbacks.runs.reader import read_run
from tests.helpers.planted_faults import FAULTS, HEALTHY
from tests.helpers.trainings import train


@dataclass(frozen=True)
class Row:
    """A training: its expected rules, its diagnosis, and the severity of each rule's alert."""

    name: str
    expected: tuple[str, ...]
    diagnosis: Diagnosis
    alerts: dict[str, str]

    @property
    def found(self) -> tuple[str, ...]:
        return tuple(finding.id for finding in self.diagnosis.findings)


def judged(name: str, folder: Path, *, shift: int = 0) -> Row:
    """Trains one of FAULTS or HEALTHY in a new folder and diagnoses its run; `shift` is added to its seed."""
    if name in FAULTS:
        fault = FAULTS[name]
        train(folder, replace(fault.plan, seed=fault.plan.seed + shift), before=fault.before)
        expected = tuple(fault.symptoms)
    else:
        plan, before = HEALTHY[name]
        train(folder, replace(plan, seed=plan.seed + shift), before=before)
        expected = ()
    run = read_run(folder)
    printed = {tag: texts.values[-1] for tag, texts in run.texts.items() if tag.startswith(PREFIX)}
    alerts = {tag.removeprefix(PREFIX): text[2:].partition(":")[0] for tag, text in printed.items()}
    return Row(name, expected, diagnose(run), alerts)


def rule_row(name: str) -> str:
    """A rule's row in docs/diagnosis.md."""
    cls = RULES[name]
    what = (cls.__doc__ or "").strip().partition("\n\n")[0].replace("\n    ", " ")
    options = "<br>".join(f"`{option}: {value:g}`" for option, value in thresholds(name).items()) or "none"
    reads = "; ".join(need.what for need in cls.needs)
    code = f'<a id="{cls.code.lower()}"></a>`{name}`<br>{cls.code}'
    return f"| {code} | {what} | {reads} | {options} | {cls.source} |"


def confusion_row(row: Row) -> str:
    """A training's row in the confusion table."""
    by_rule = {
        finding.id: f"{finding.id} ({finding.severity}, step {finding.steps[0]})" for finding in row.diagnosis.findings
    }
    named = ", ".join(by_rule.get(rule, f"**missed: {rule}**") for rule in row.expected) or "–"  # noqa: RUF001
    also = ", ".join(printed for rule, printed in by_rule.items() if rule not in row.expected) or "–"  # noqa: RUF001
    return f"| {row.name} | {named} | {also} |"
