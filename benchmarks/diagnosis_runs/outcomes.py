"""Reads trained runs back and lists the findings on each: of the doctor, and of the rules while it trained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.diagnosis_runs.cases import Case
from benchmarks.diagnosis_runs.scoring import Outcome, Report
from benchmarks.diagnosis_runs.training import read_record, run_folder
from tbx_callbacks.rules.diagnose import diagnose_folder
from tbx_callbacks.rules.finding_text import PREFIX, severity_of
from tbx_callbacks.runs.reader import UnreadableError

_EVIDENCE = re.compile(r"\*\*Evidence:\*\* (.*); steps (.*)")


def read_outcomes(cases: Iterable[Case], out: Path) -> Iterator[Outcome]:
    """Yields the outcome of each run that was trained in `out`."""
    for case in cases:
        record = read_record(out, case.name)
        if record is None or record.skipped:
            continue
        if record.facts is None:
            yield Outcome(case, state="failed", why=record.failed or "")
            continue
        doctor, live = _reports(run_folder(out, case.name))
        known = {report.rule for report in live}  # a training repeats findings of the checks before it
        before = tuple(Report(rule, severity) for rule, severity in record.facts.preflight if rule not in known)
        planned = case.planned is None or case.planned(record.facts)
        yield Outcome(
            case,
            state="judged" if planned else "not as planned",
            doctor=doctor,
            live=(*before, *live) if record.facts.is_live else None,
            why="" if planned else f"{record.facts}",
        )


def _reports(folder: Path) -> tuple[tuple[Report, ...], tuple[Report, ...]]:
    """Returns the findings of the doctor and those that the live rules wrote into the run."""
    doctor: list[Report] = []
    live: list[Report] = []
    try:
        for entry in diagnose_folder(folder):
            doctor += [Report(each.id, each.severity, each.tags, each.steps) for each in entry.diagnosis.findings]
            for tag, texts in entry.run.texts.items():
                severity = severity_of(texts.values[-1])
                if tag.startswith(PREFIX) and severity is not None:
                    live.append(Report(tag.removeprefix(PREFIX), severity, *_evidence(texts.values[-1])))
    except UnreadableError:  # a run without scalars: the doctor says so
        pass
    return tuple(doctor), tuple(live)


def _evidence(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The tags and the steps of an alert."""
    found = _EVIDENCE.search(text)
    if found is None:
        return (), ()
    tags = tuple(re.sub(r"\\(.)", r"\1", found[1]).split(", "))
    return tags, tuple(int(step) for step in re.findall(r"\d+", found[2]))
