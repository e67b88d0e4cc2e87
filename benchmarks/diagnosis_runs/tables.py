"""Formats the scores as the tables of docs/diagnosis.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.diagnosis_runs.kinds import HALVES
from benchmarks.diagnosis_runs.scoring import (
    SOURCES,
    Outcome,
    Report,
    Source,
    alarms_by_rule,
    missed,
    score,
)

_NONE = "–"  # noqa: RUF001 - as in the other tables


def all_tables(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yields every table as Markdown."""
    yield scores_table(outcomes)
    yield patterns_table(outcomes)
    yield alarms_table(outcomes)
    yield misses_table(outcomes)
    yield left_out_table(outcomes)
    yield runs_table(outcomes, is_fault=True)
    yield runs_table(outcomes, is_fault=False)


def scores_table(outcomes: Sequence[Outcome]) -> str:
    """One row for each half and source."""
    rows = []
    for half in HALVES:
        part = [each for each in outcomes if each.case.half == half]
        for source in SOURCES:
            found = score(part, source)
            alarms = found.true_alarms + found.false_alarms
            rows.append(
                [
                    half,
                    source,
                    str(found.faults),
                    f"{found.named + found.noticed} ({_percent(found.recall)})",
                    f"{found.named} ({_percent(found.causes)})",
                    f"{found.true_alarms} of {alarms} ({_percent(found.precision)})",
                    f"{found.alarmed} of {found.healthy}",
                ]
            )
    titles = ["kinds", "by", "faults", "noticed or named", "cause named", "true alarms", "healthy runs with an alarm"]
    return _table(titles, rows)


def patterns_table(outcomes: Sequence[Outcome]) -> str:
    """One row for each pattern of the literature."""
    rows = [
        [outcome.case.pattern, _verdict(outcome, "doctor"), _verdict(outcome, "live")]
        for outcome in outcomes
        if outcome.case.pattern is not None
    ]
    return _table(["pattern", "doctor", "live"], sorted(rows))


def alarms_table(outcomes: Sequence[Outcome]) -> str:
    """One row for each rule with a false alarm; those on faulty runs mislead."""
    rows = []
    for on_faults, title in ((False, "healthy"), (True, "faulty")):
        doctor, live = (alarms_by_rule(outcomes, source, on_faults=on_faults) for source in SOURCES)
        for rule in sorted({*doctor, *live}):
            names = (", ".join(found.get(rule, ())) or _NONE for found in (doctor, live))
            rows.append([f"`{rule}`", title, *names])
    return _table(["rule", "runs", "false alarms of the doctor", "false alarms live"], rows)


def misses_table(outcomes: Sequence[Outcome]) -> str:
    """One row for each fault whose cause was not named by the doctor or live."""
    found = {outcome.case.name: outcome for source in SOURCES for outcome, _ in missed(outcomes, source)}
    rows = [
        [each.case.name, each.case.half, *(each.verdict(source) or "not there" for source in SOURCES), _wanted(each)]
        for each in outcomes
        if each.case.name in found
    ]
    return _table(["fault", "kinds", "doctor", "live", "expected"], rows)


def left_out_table(outcomes: Sequence[Outcome]) -> str:
    """One row for each run that failed or did not go as planned."""
    rows = [
        [each.case.name, each.state, each.why.strip().rpartition("\n")[2]]
        for each in outcomes
        if each.state != "judged"
    ]
    return _table(["left out", "state", "why"], rows)


def runs_table(outcomes: Sequence[Outcome], *, is_fault: bool) -> str:
    """One row for each run."""
    rows = [
        [
            outcome.case.name,
            outcome.case.title,
            outcome.case.half,
            _reports(outcome, "doctor"),
            _reports(outcome, "live"),
        ]
        for outcome in outcomes
        if outcome.state == "judged" and outcome.case.is_fault == is_fault
    ]
    return _table(["faulty run" if is_fault else "healthy run", "is", "kinds", "doctor", "live"], rows)


def _reports(outcome: Outcome, source: Source) -> str:
    """The findings; those that name the cause are bold, false alarms in italics."""
    reports = outcome.reports(source)
    if reports is None:
        return "not there"
    return ", ".join(_report(outcome, report) for report in reports) or _NONE


def _report(outcome: Outcome, report: Report) -> str:
    text = report.rule + (f" ({report.severity})" if report.severity != "warning" else "")
    if outcome.case.is_fault and outcome.names_cause(report):
        return f"**{text}**"
    return f"*{text}*" if report.is_loud and not outcome.is_true(report) else text


def _verdict(outcome: Outcome, source: Source) -> str:
    """The result of a pattern, with the rule that says it."""
    if outcome.state != "judged":
        return outcome.state
    verdict = outcome.verdict(source)
    if verdict is None:
        return "not there"
    reports = outcome.reports(source) or ()
    if verdict == "named":
        rules = [report.rule for report in reports if outcome.names_cause(report)]
    else:
        rules = [report.rule for report in reports if report.is_loud]
    return verdict + (f": {_rules(dict.fromkeys(rules))}" if rules else "")


def _wanted(outcome: Outcome) -> str:
    return " or ".join(f"`{rule}`" for rule in sorted(outcome.case.wants)) or "no rule names it"


def _rules(names: Sequence[str] | dict[str, None]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == share else _NONE


def _table(titles: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) if rows else f"{titles[0]}: none"
