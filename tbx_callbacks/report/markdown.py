"""Writes the findings and results of runs as Markdown of at most 60 lines, for a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from tbx_callbacks._text import printable
from tbx_callbacks.report import tables
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.rules import Finding
from tbx_callbacks.rules.finding_text import named

_MOST_LINES = 60
_MOST_RUNS, _MOST_RESULTS, _MOST_FINDINGS = 8, 12, 12
_ICONS = {"problems": "\u274c", "nothing_found": "\u2705", "too_little": "\u26a0\ufe0f"}
_LONGEST = 300


def markdown(loaded_runs: Sequence[LoadedRun]) -> str:
    """Returns the verdict, the findings and the results of the runs; lists that are too long end with a count."""
    shown = loaded_runs[:_MOST_RUNS]
    lines = ["### Runs", ""]
    for loaded_run in shown:
        verdict, failure = loaded_run.diagnosis.verdict, loaded_run.run.failure_sentence
        icon = _ICONS["problems" if failure else verdict.kind]
        lines.append(f"- {icon} **{plain_text(loaded_run.name)}**: {plain_text(f'{failure} {verdict.text}'.lstrip())}")
    lines += _more(len(loaded_runs) - len(shown), "runs")
    lines += _results(shown)
    lines += _findings(shown)
    differing = tables.differences(shown) if len(shown) > 1 else []
    if differing:
        room = max(1, _MOST_LINES - len(lines) - 6)
        lines += ["", *_table("setting", shown, differing[:room]), *_more(len(differing) - room, "settings")]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 2], "", "and more: see the report"]
    return "\n".join(lines) + "\n"


def _results(shown: Sequence[LoadedRun]) -> list[str]:
    rows = tables.results(shown)
    shown_rows = [*rows[: _MOST_RESULTS - 2], *rows[max(_MOST_RESULTS, len(rows)) - 2 :]]
    return ["", *_table("result", shown, shown_rows), *_more(len(rows) - len(shown_rows), "results")]


def _findings(shown: Sequence[LoadedRun]) -> list[str]:
    found = [(loaded_run, finding) for loaded_run in shown for finding in loaded_run.diagnosis.findings]
    found.sort(key=lambda entry: entry[1].rank)
    if not found:
        return []
    lines = ["", "**Findings**", ""]
    for loaded_run, finding in found[:_MOST_FINDINGS]:
        where = f" in {plain_text(loaded_run.name)}" if len(shown) > 1 else ""
        lines.append(f"- **{finding.severity}** `{named(finding)}`{where}{_step(finding)}: {plain_text(finding.means)}")
        if finding.severity != "note":
            lines.append(f"  Try: {plain_text(finding.advice)}")
    return [*lines, *_more(len(found) - _MOST_FINDINGS, "findings")]


def _step(finding: Finding) -> str:
    return f", step {finding.steps[0]}" if finding.steps else ""


def _table(title: str, shown: Sequence[LoadedRun], rows: Sequence[tables.Row]) -> list[str]:
    return [
        f"| {title} | " + " | ".join(plain_text(loaded_run.name) for loaded_run in shown) + " |",
        "|---|" + "---|" * len(shown),
        *(f"| {plain_text(row.name)} | " + " | ".join(map(plain_text, row.cells)) + " |" for row in rows),
    ]


def _more(number: int, what: str) -> list[str]:
    return ["", f"and {number} more {what}"] if number > 0 else []


def plain_text(words: str) -> str:
    """Returns text from a run on one line, without what Markdown would read in it: markup, mentions, columns."""
    line = printable(words)
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
    return line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("@", "&#64;").replace("`", "'")
