"""Draws the selected run: verdict and findings, speed, curves, and layers over steps."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.text import Text

from tbx_callbacks._text import printable
from tbx_callbacks.monitor.curves import Pair, gradient_norms, losses
from tbx_callbacks.monitor.heat import heat
from tbx_callbacks.monitor.plot import BESIDE, MAIN, POINT, plot
from tbx_callbacks.monitor.run_table import age, left, rate, state, verdict
from tbx_callbacks.monitor.view import View
from tbx_callbacks.monitor.watched_runs import WatchedRun
from tbx_callbacks.report.layer_families import families
from tbx_callbacks.rules import Finding
from tbx_callbacks.rules.finding_text import named, since
from tbx_callbacks.runs.series import Run, Series

_SEVERITY = {"error": "bold red", "warning": "yellow", "note": "dim"}
_STATES = ("done", "ended", "failed", "silent")
_CURVES = 14  # lines where nothing limits them
_TALL = 30  # lines from which findings have their advice


def details(
    run: WatchedRun, view: View, now: float, width: int, height: int | None, *, has_colours: bool
) -> list[Text]:
    """Draws a run in at most `height` lines of at most `width` columns.

    Args:
        run: the run.
        view: the choices of the user.
        now: Unix time in seconds.
        width: columns.
        height: lines; None for all layers and all findings, in as many lines as it takes.
        has_colours: whether the heat map may use colours.
    """
    lines = [*_summary(run, now, width, height)]
    if not run.run.scalars:
        lines.append(Text(_no_curves(run), "dim"))
        return lines[:height]
    known = families(run.run)
    family = view.shown_family(known)
    for_heat, for_curves = _shares(0 if family is None else len(known[family]), height, len(lines))
    lines += _curves(run.run, width, for_curves)
    if family is not None and for_heat > 1:
        title = Text(no_wrap=True).append(printable(family), "bold")
        title.append("  ")
        scale, *rows = heat(known[family], width, for_heat, has_colours=has_colours)
        lines += [title.append_text(scale), *rows]
    return lines[:height]


def _shares(layers: int, height: int | None, used: int) -> tuple[int, int]:
    """The lines of the heat map and of the curves."""
    if height is None:
        return (layers + 2 if layers else 0), _CURVES
    rest = height - used
    for_heat = min(2 + layers, rest * 3 // 5) if layers else 0
    return for_heat, rest - for_heat if layers else min(rest, 20)


def _summary(run: WatchedRun, now: float, width: int, height: int | None) -> Iterator[Text]:
    words, style = verdict(run)
    title = Text(no_wrap=True).append("── ", "dim")
    title.append(run.name, "bold").append(" ── ", "dim").append(words, style).append(" ", "")
    yield title.append("─" * max(0, width - title.cell_len), "dim")
    if run.problem:
        yield from _wrapped(Text(f"cannot be read: {run.problem}", "red"), width, 3)
    if run.run.is_failed:
        yield Text(run.run.failure_sentence, "bold red", no_wrap=True)
    if run.diagnosis is not None:
        if not run.diagnosis.findings:
            yield Text(printable(f"{run.diagnosis.verdict.text} {run.diagnosis.verdict.remedy}".rstrip()), no_wrap=True)
        yield from _findings(run.diagnosis.findings, width, height)
        yield _speed(run, now, width)
    if run.notes:
        yield Text(run.notes[0] + (f" (and {len(run.notes) - 1} more)" if run.notes[1:] else ""), "dim", no_wrap=True)


def _findings(findings: tuple[Finding, ...], width: int, height: int | None) -> Iterator[Text]:
    most = len(findings) if height is None else max(1, height // 9)
    is_tall = height is None or height >= _TALL
    for index, finding in enumerate(findings[:most]):
        more = f" (and {len(findings) - most} more)" if index == most - 1 and len(findings) > most else ""
        line = Text(no_wrap=True).append(finding.severity, _SEVERITY[finding.severity])
        line.append(printable(f" {named(finding)}{since(finding)}{more}: {finding.means}"))
        yield from _wrapped(line, width, 20 if height is None else 2 if is_tall else 1)
        if is_tall and finding.severity != "note":
            advice = Text(printable(f"  try: {finding.advice}"), "italic", no_wrap=True)
            yield from _wrapped(advice, width, 20) if height is None else [advice]


def _wrapped(text: Text, width: int, most: int) -> list[Text]:
    """The text in at most so many lines, the last of which is cut."""
    end = 0
    lines: list[Text] = []
    words = text.split(" ")
    while end < len(words) and len(lines) < most:
        start, used = end, 0
        while end < len(words) and (end == start or used + words[end].cell_len + 1 <= width or len(lines) == most - 1):
            used += words[end].cell_len + (end > start)
            end += 1
        line = Text(" ").join(words[start:end])
        line.no_wrap = True
        lines.append(line)
    return lines


def _speed(run: WatchedRun, now: float, width: int) -> Text:
    pace, time_left = run.pace, state(run, now)[0] or left(run)
    of_total = f" of {pace.total:,} ({100 * pace.step / pace.total:.0f} %)" if pace.total else ""
    parts = {
        "step": f"step {pace.step:,}{of_total}",
        "steps/s": f"{rate(pace.steps_per_s)} steps/s" if pace.steps_per_s is not None else "",
        "samples/s": f"{rate(pace.samples_per_s)} samples/s" if pace.samples_per_s is not None else "",
        "left": "" if time_left == "-" else time_left if time_left in _STATES else f"{time_left} left",
        "last": "" if pace.last_time is None else f"last point {age(now - pace.last_time)}",
    }
    if len("   ".join(filter(None, parts.values()))) > width:
        del parts["steps/s"], parts["left"]  # the list of runs shows them
    return Text("   ".join(filter(None, parts.values())), no_wrap=True)


def _curves(run: Run, width: int, height: int) -> list[Text]:
    """The two plots side by side, with a title each."""
    left_width = (width - 2) // 2
    plots = [
        _titled("loss", ("train", "eval"), losses(run), left_width, height),
        _titled("grad norm", ("before", "after"), gradient_norms(run), width - 2 - left_width, height),
    ]
    lines = []
    for one, other in zip(*plots, strict=True):
        one.truncate(left_width, overflow="ellipsis", pad=True)
        other.truncate(width - 2 - left_width, overflow="ellipsis")
        lines.append(one.append("  ").append_text(other))
    return lines


def _titled(what: str, names: tuple[str, str], pair: Pair, width: int, height: int) -> list[Text]:
    if height < 1:
        return []
    title = Text(no_wrap=True).append(what, "bold")
    for name, series, style, mark in zip(names, pair, (MAIN, BESIDE), ("─", POINT), strict=True):
        if series is not None:
            title.append(f" {mark} ", style).append(f"{name} {_value(series)}")
    if not any(pair):
        title.append("  not logged", "dim")
    return [title, *plot(pair, width, height - 1)]


def _value(series: Series) -> str:
    value = float(series.values[-1])
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def _no_curves(run: WatchedRun) -> str:
    if run.histograms:
        return f"The run holds histograms ({run.histograms} tags) and no scalars."
    return "" if run.problem else "The run holds no values yet."
