"""Draws the list of runs: one line each, with verdict, steps, losses, speed and time left."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from tbx_callbacks._notify.stall import is_silent_outside
from tbx_callbacks._text import count
from tbx_callbacks.monitor.curves import losses
from tbx_callbacks.monitor.watched_runs import WatchedRun
from tbx_callbacks.report.tables import duration
from tbx_callbacks.rules import Diagnosis
from tbx_callbacks.runs.series import Series

_COLUMNS = {"verdict": 11, "step": 11, "loss": 9, "eval": 9, "steps/s": 7, "left": 10}
_WIDE = {"samples/s": 9, "last point": 10}
_WIDE_FROM = 110  # columns of the terminal
_LEAST_NAME = 8


def table(runs: Sequence[WatchedRun], selected: int, now: float, width: int, height: int) -> list[Text]:
    """Draws the heading and as many runs as fit, the selected one among them.

    Args:
        runs: the runs; at least one.
        selected: the index of the selected run.
        now: Unix time in seconds.
        width: columns.
        height: lines, with the heading.
    """
    columns = {**_COLUMNS, **(_WIDE if width >= _WIDE_FROM else {})}
    longest = max(cell_len(run.name) for run in runs)
    name_width = max(_LEAST_NAME, min(longest, width - 2 - sum(columns.values()) - len(columns)))
    heading = Text("  " + _padded("run", name_width), "bold dim", no_wrap=True)
    for name, size in columns.items():
        heading.append(f" {name:>{size}}")
    number = min(len(runs), max(0, height - 1))
    start = min(max(0, selected - number // 2), len(runs) - number)
    lines = [heading]
    for index in range(start, start + number):
        line = Text("> " if index == selected else "  ", "bold" if index == selected else "", no_wrap=True)
        line.append(_padded(runs[index].name, name_width))
        lines.append(_row(line, runs[index], columns, now))
    return lines[: max(0, height)]


def verdict(run: WatchedRun) -> tuple[str, str]:
    """The verdict in one or two words, and its style."""
    if run.problem:
        return "unreadable", "bold red"
    if run.diagnosis is None:
        return "", ""
    errors, warnings = _count(run.diagnosis, "error"), _count(run.diagnosis, "warning")
    if errors:
        return count(errors, "error"), "bold red"
    if warnings:
        return count(warnings, "warning"), "yellow"
    if run.diagnosis.verdict.kind == "too_little":
        return "too little", "dim"
    if run.diagnosis.findings:
        return count(len(run.diagnosis.findings), "note"), "dim"
    return "none found", "dim" if run.run.is_failed else "green"


def state(run: WatchedRun, now: float) -> tuple[str, str]:
    """Whether the training has ended, failed, or logs nothing any more, in a word, and its style; else empty."""
    if run.run.status:
        return ("failed", "bold red") if run.run.is_failed else ("ended", "")
    pace = run.pace
    if pace.last_time is None or (pace.total is not None and pace.step >= pace.total):
        return "", ""
    return ("silent", "yellow") if is_silent_outside(now - pace.last_time, pace.longest_wait_s) else ("", "")


def age(seconds: float) -> str:
    """The time that has passed, in one unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def rate(value: float | None) -> str:
    """A speed; a dash if it is unknown."""
    if value is None:
        return "-"
    return f"{value:.1f}" if 10 <= value < 10_000 else f"{value:.3g}"


def left(run: WatchedRun) -> str:
    """The time left; a dash if it is unknown."""
    pace = run.pace
    if pace.total is not None and pace.step >= pace.total:
        return "done"
    return "-" if pace.left_s is None else duration(pace.left_s) if pace.left_s < 8_640_000 else "> 100 d"


def _row(line: Text, run: WatchedRun, columns: dict[str, int], now: float) -> Text:
    if run.problem:
        return line.append(f" {run.problem}", "red")
    pace, pair = run.pace, losses(run.run)
    total = f"/{_short(pace.total)}" if pace.total is not None else ""
    words, style = verdict(run)
    ending = state(run, now)
    cells = {
        "verdict": (words, style),
        "step": (f"{_short(pace.step)}{total}", ""),
        "loss": _last(pair.main),
        "eval": _last(pair.beside),
        "steps/s": (rate(pace.steps_per_s), ""),
        "left": ending if ending[0] else (left(run), ""),
        "samples/s": (rate(pace.samples_per_s), ""),
        "last point": ("-" if pace.last_time is None else age(now - pace.last_time), ""),
    }
    for name, size in columns.items():
        text, style = cells[name]
        line.append(f" {text:>{size}}", style)
    return line


def _last(series: Series | None) -> tuple[str, str]:
    if series is None:
        return "-", "dim"
    value = float(series.values[-1])
    if not math.isfinite(value):
        return str(value), "bold red"
    text = f"{value:.4g}"
    return text if len(text) <= _COLUMNS["loss"] else f"{value:.2e}", ""


def _short(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**4)):
        if abs(number) >= size:
            return f"{number / {'k': 10**3}.get(unit, size):.4g}{unit}"
    return str(number)


def _count(diagnosis: Diagnosis, severity: str) -> int:
    return sum(finding.severity == severity for finding in diagnosis.findings)


def _padded(text: str, width: int) -> str:
    cut = Text(text)
    cut.truncate(width, overflow="ellipsis", pad=True)
    return cut.plain
