"""Prints the findings of runs, for `tbx-callbacks doctor`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence
from enum import Enum

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from tbx_callbacks._extensions import suggest
from tbx_callbacks._text import count, printable, short
from tbx_callbacks.cli.outputs import finite, header
from tbx_callbacks.rules import Acknowledgement, Diagnosis, Finding, Unjudged
from tbx_callbacks.rules.diagnose import DiagnosedRun
from tbx_callbacks.rules.finding_text import evidence, named

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
_OTHER_RUN = re.compile(", (in a|with) ")  # a condition in the words for a metric
_MOST_METRICS = 8
_OF_VERDICT = {"problems": "bold", "nothing_found": "green", "too_little": "yellow"}


def print_diagnosis(diagnosed: DiagnosedRun, console: Console, *, has_steps: bool = True) -> None:
    """Prints a run's findings, worst first, the verdict, and the rules that could not judge it.

    Args:
        diagnosed: the run.
        console: where to print.
        has_steps: whether the run is a training; else it is a check before one.
    """
    run, diagnosis = diagnosed.run, diagnosed.diagnosis
    name = diagnosed.folder if diagnosed.name == "." else diagnosed.name
    tags, steps = count(len(run.scalars), "scalar tag"), count(run.last_step, "step")
    size = f"{tags}, {steps}" if has_steps else count(len(run.scalars), "check")
    size += ", ended" if run.status == "succeeded" else ""
    console.print(f"[bold]{_safe(name)}[/bold]: {size}")
    if run.source_sentence:
        console.print(_indented(f"[dim]{_safe(run.source_sentence)}[/dim]", 2))
    if run.is_failed:
        console.print(f"  [bold red]{run.failure_sentence}[/bold red]")
    for finding in diagnosis.findings:
        colour = _COLOURS[finding.severity]
        where = f", {_location(finding)}" if has_steps else ""
        console.print(f"  [{colour}]{finding.severity:8}[/{colour}][bold]{_safe(named(finding))}[/bold]{where}")
        console.print(_indented(f"{_safe(finding.means)}\n[dim]try:[/dim] {_safe(finding.advice)}", 10))
        console.print(_indented(f"[dim]{_safe(evidence(finding))}\n{_safe(finding.source)}[/dim]", 10))
    for known in diagnosis.acknowledged:
        where = ", ".join([_location(known.finding), *known.finding.tags[:1]])
        name = f"{known.finding.severity} {named(known.finding)} ({where})"
        words = f"[dim]acknowledged: {_safe(name)}: {_safe(known.reason)}[/dim]"
        console.print(_indented(words, 2))
    console.print(_indented(_verdict(diagnosis, is_failed=run.is_failed), 2))
    for file, missing in run.unread.items():
        console.print(f"  [yellow]{missing} bytes at the end of {_safe(file)} are truncated or damaged[/yellow]")
    for words in run.left_out:
        console.print(f"  [yellow]{_safe(words)}[/yellow]")
    _print_unjudged(diagnosis.unjudged, console)


def _print_unjudged(unjudged: Sequence[Unjudged], console: Console) -> None:
    """Prints the metrics that would let more rules judge, and the rules that are for other runs."""
    lacking = [rule for rule in unjudged if rule.applies]
    if others := [rule.id for rule in unjudged if not rule.applies]:
        words = f"{count(len(others), 'rule')} for another kind of run: {', '.join(others)}"
        console.print(_indented(f"[dim]{_safe(words)}[/dim]", 2))
    if lacking:
        console.print(f"  [dim]{count(len(lacking), 'rule')} lacked data; metrics that would write it:[/dim]")
        by_metric = _by_metric(lacking)
        lines = [f"{metric}: {', '.join(names)}" for metric, names in [*by_metric.items()][:_MOST_METRICS]]
        if more := sum(map(len, [*by_metric.values()][_MOST_METRICS:])):
            lines.append(f"and {more} more rules; --json lists them all")
        for text in lines:
            console.print(_indented(f"[dim]{_safe(text)}[/dim]", 4))


def print_settings(file: str, not_found: Sequence[Acknowledgement], console: Console) -> None:
    """Prints which file of rules applied, and its acknowledgements that no finding matched."""
    for entry in not_found:
        console.print(f"[yellow]acknowledged but not found:[/yellow] {_safe(str(entry))}: {_safe(entry.reason)}")
    if file:
        console.print(f"[dim]rules: {_safe(file)}[/dim]")


def show_worst(diagnosis: Diagnosis, console: Console, *, most: int = 3) -> None:
    """Prints the worst findings, one per line, the number of further ones, and the verdict."""
    for finding in diagnosis.findings[:most]:
        colour = _COLOURS[finding.severity]
        console.print(
            f"[{colour}]{finding.severity}[/{colour}] {_safe(named(finding))}: {_safe(finding.means)}", soft_wrap=True
        )
    more = len(diagnosis.findings) - most
    if more > 0:
        console.print(f"and {more} more")
    console.print(_verdict(diagnosis), soft_wrap=True)


class FailOn(str, Enum):
    """What makes `doctor` fail. Errors always do."""

    ERROR = "error"
    WARNING = "warning"
    UNJUDGED = "unjudged"


def parse_fail_on(given: Sequence[str]) -> set[FailOn]:
    """Parses `--fail-on`, which may be repeated and may name several kinds, separated by commas.

    Raises:
        ValueError: an unknown kind.
    """
    kinds = {kind.value: kind for kind in FailOn}
    names = [name.strip() for text in given for name in text.split(",")]
    for name in names:
        if name not in kinds:
            nearest = suggest(name, kinds, what="kinds")
            raise ValueError(f"--fail-on must be one or more of {', '.join(kinds)}, got {short(name)}; {nearest}")
    return {kinds[name] for name in names}


def exit_code(diagnoses: Sequence[Diagnosis], fail_on: Collection[FailOn], unreadable: Collection[str] = ()) -> int:
    """Returns 1 if an error was found (with `warning`: or a warning), else 3 for too little to judge, else 0.

    Args:
        diagnoses: of all runs.
        fail_on: 3 needs `unjudged`.
        unreadable: runs that were left out: they are not judged either.
    """
    severities = {"error", *(["warning"] if FailOn.WARNING in fail_on else [])}
    if any(finding.severity in severities for diagnosis in diagnoses for finding in diagnosis.findings):
        return 1
    is_open = bool(unreadable) or any(diagnosis.verdict.kind == "too_little" for diagnosis in diagnoses)
    return 3 if is_open and FailOn.UNJUDGED in fail_on else 0


def as_json(
    diagnosed: list[DiagnosedRun],
    *,
    command: str = "doctor",
    not_found: Sequence[Acknowledgement] = (),
    rules_file: str = "",
) -> dict[str, object]:
    """All diagnoses, for JSON."""
    runs = [
        {
            "run": entry.name,
            "folder": entry.folder,
            "verdict": dataclasses.asdict(entry.diagnosis.verdict),
            "last_step": entry.run.last_step,
            "status": entry.run.status or None,
            "source": entry.run.source or None,
            "lacks": list(entry.run.lacks),
            "findings": [plain_finding(finding) for finding in entry.diagnosis.findings],
            "acknowledged": [
                {**plain_finding(known.finding), "reason": known.reason} for known in entry.diagnosis.acknowledged
            ],
            "unjudged": [dataclasses.asdict(rule) for rule in entry.diagnosis.unjudged],
            "unread": dict(entry.run.unread),
            "left_out": list(entry.run.left_out),
        }
        for entry in diagnosed
    ]
    entries = [dataclasses.asdict(entry) for entry in not_found]
    return {**header(command), "runs": runs, "acknowledged_not_found": entries, "rules_file": rules_file or None}


def _indented(text: str, columns: int) -> Padding:
    return Padding(text, (0, 0, 0, columns), expand=False)


def _verdict(diagnosis: Diagnosis, *, is_failed: bool = False) -> str:
    verdict = diagnosis.verdict
    colour = "yellow" if is_failed and verdict.kind == "nothing_found" else _OF_VERDICT[verdict.kind]
    remedy = f" [dim]{_safe(verdict.remedy)}[/dim]" if verdict.remedy else ""
    return f"[{colour}]{_safe(verdict.text)}[/{colour}]{remedy}"


def plain_finding(finding: Finding) -> dict[str, object]:
    """Returns a finding as plain values; numbers that are not finite are texts."""
    fields: dict[str, object] = finite(dataclasses.asdict(finding))
    return fields


def _by_metric(unjudged: Sequence[Unjudged]) -> dict[str, list[str]]:
    """Groups the rules by the metric that would write their data; those that need another kind of run come last."""
    rules: dict[str, list[str]] = {}
    for entry in sorted(unjudged, key=lambda entry: bool(_OTHER_RUN.search(entry.metric))):
        rules.setdefault(entry.metric, []).append(entry.id)
    return rules


def _location(finding: Finding) -> str:
    return f"step {finding.steps[0]}" if finding.steps else "the whole run"


def _safe(text: str) -> str:
    """Text from a run without markup, on one line."""
    return escape(printable(text))
