"""Scores findings against the expectations beside the runs: recall, causes named, precision, false alarms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.diagnosis_runs.cases import Case

Source = Literal["doctor", "live"]
SOURCES: tuple[Source, ...] = ("doctor", "live")
State = Literal["judged", "not as planned", "failed"]
Verdict = Literal["named", "noticed", "misleading", "silent"]


@dataclass(frozen=True)
class Report:
    """A finding on a run: its rule, its severity, and where."""

    rule: str
    severity: str
    tags: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()

    @property
    def is_loud(self) -> bool:
        """Whether it is a warning or an error; notes are no alarms."""
        return self.severity != "note"


@dataclass(frozen=True)
class Outcome:
    """A run and the findings on it; `live` is None if no rules ran while it trained."""

    case: Case
    state: State = "judged"
    doctor: tuple[Report, ...] = ()
    live: tuple[Report, ...] | None = None
    why: str = ""

    def reports(self, source: Source) -> tuple[Report, ...] | None:
        return self.doctor if source == "doctor" else self.live

    def is_true(self, report: Report) -> bool:
        """Whether a finding is true of the run: a cause, a symptom, or a fact of a healthy run."""
        return report.rule in self.case.wants | self.case.also_ok

    def names_cause(self, report: Report) -> bool:
        return self.case.names_cause(report.rule, report.tags, report.steps)

    def verdict(self, source: Source) -> Verdict | None:
        """How a fault was told; None for healthy runs, and where the source was not there.

        A note may name the cause. A symptom counts only as a warning or an error.
        """
        reports = self.reports(source)
        if not self.case.is_fault or reports is None:
            return None
        if any(map(self.names_cause, reports)):
            return "named"
        loud = [report for report in reports if report.is_loud]
        if any(map(self.is_true, loud)):
            return "noticed"
        return "misleading" if loud else "silent"

    def false_alarms(self, source: Source) -> tuple[Report, ...]:
        """The warnings and errors that are not true of the run."""
        return tuple(each for each in self.reports(source) or () if each.is_loud and not self.is_true(each))


@dataclass(frozen=True)
class Scores:
    """The scores of one source on some runs.

    Args:
        faults: faulty runs.
        nameable: those of them for which a rule could name the cause.
        named: those whose cause was named.
        noticed: those of which a symptom was reported, but not the cause.
        true_alarms: warnings and errors on faulty runs that are true.
        false_alarms: warnings and errors that are not true, on faulty and healthy runs.
        healthy: healthy runs.
        alarmed: those of them with a false alarm.
    """

    faults: int
    nameable: int
    named: int
    noticed: int
    true_alarms: int
    false_alarms: int
    healthy: int
    alarmed: int

    @property
    def recall(self) -> float:
        """The share of faults of which the cause or a symptom was reported."""
        return (self.named + self.noticed) / self.faults if self.faults else float("nan")

    @property
    def causes(self) -> float:
        """The share of faults whose cause was named."""
        return self.named / self.faults if self.faults else float("nan")

    @property
    def precision(self) -> float:
        """The share of warnings and errors that are true."""
        alarms = self.true_alarms + self.false_alarms
        return self.true_alarms / alarms if alarms else float("nan")


def score(outcomes: Iterable[Outcome], source: Source) -> Scores:
    """Scores the judged runs at which the source was there."""
    judged = [each for each in outcomes if each.state == "judged" and each.reports(source) is not None]
    faults = [each for each in judged if each.case.is_fault]
    healthy = [each for each in judged if not each.case.is_fault]
    verdicts = Counter(each.verdict(source) for each in faults)
    loud = [(each, report) for each in faults for report in each.reports(source) or () if report.is_loud]
    return Scores(
        faults=len(faults),
        nameable=sum(bool(each.case.wants) for each in faults),
        named=verdicts["named"],
        noticed=verdicts["noticed"],
        true_alarms=sum(each.is_true(report) for each, report in loud),
        false_alarms=sum(len(each.false_alarms(source)) for each in judged),
        healthy=len(healthy),
        alarmed=sum(bool(each.false_alarms(source)) for each in healthy),
    )


def missed(outcomes: Iterable[Outcome], source: Source) -> Sequence[tuple[Outcome, Verdict]]:
    """The faults whose cause was not named, with what was reported instead."""
    verdicts = ((each, each.verdict(source)) for each in outcomes if each.state == "judged")
    return [(each, verdict) for each, verdict in verdicts if verdict is not None and verdict != "named"]


def alarms_by_rule(outcomes: Iterable[Outcome], source: Source, *, on_faults: bool) -> dict[str, list[str]]:
    """The names of the healthy (or faulty) runs with a false alarm of each rule."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.state == "judged" and outcome.case.is_fault == on_faults:
            for report in outcome.false_alarms(source):
                found.setdefault(report.rule, []).append(outcome.case.name)
    return dict(sorted(found.items()))
