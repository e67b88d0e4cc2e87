"""Marks alerts of live rules in line charts."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from tbx_callbacks.report.colours import SEVERITY
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.rules.finding_text import PREFIX, severity_of
from tbx_callbacks.runs.series import Series

_MARKUP = re.compile(r"\\(.)|\*\*")
_WIDTH, _LINES = 70, 12  # of the hover text: characters per line, and lines


def alert_markers(loaded_run: LoadedRun, series: Series, run: int) -> go.Scatter | None:
    """Creates a marker at the step of each alert, on the line of `series`; None without an alert on the line.

    An alert at a step without a line is left out: before the first and after the last point, and in a gap. The alert's
    text is shown on hover, as plain text: a folder may contain anything.
    """
    heights = [(alert, _height(series, alert[0])) for alert in _alerts(loaded_run)]
    return _markers([(alert, height) for alert, height in heights if height is not None], run)


def alerts_off_line(loaded_run: LoadedRun, series: Series, run: int) -> go.Scatter | None:
    """Creates the markers that `alert_markers` leaves out, on the x axis: 0 of a second y axis."""
    alerts = [alert for alert in _alerts(loaded_run) if _height(series, alert[0]) is None]
    markers = _markers([(alert, 0.0) for alert in alerts], run)
    return None if markers is None else markers.update(yaxis="y2")


def _alerts(loaded_run: LoadedRun) -> list[tuple[int, str, str]]:
    """The step, tag and text of each alert."""
    alerts = {
        (int(step), tag): text
        for tag, texts in loaded_run.run.texts.items()
        if tag.startswith(PREFIX)
        for step, text in zip(texts.steps, texts.values, strict=True)
    }
    return [(step, tag, text) for (step, tag), text in alerts.items()]


def _height(series: Series, step: int) -> float | None:
    """The height of the drawn line at a step; None where there is no line."""
    after = int(np.searchsorted(series.steps, step))
    if after < len(series) and series.steps[after] == step and np.isfinite(series.values[after]):
        return float(series.values[after])
    if not 0 < after < len(series):
        return None
    ends = series.steps[after - 1 : after + 1].astype(np.float64)
    height = float(np.interp(step, ends, series.values[after - 1 : after + 1]))
    return height if np.isfinite(height) else None


def _markers(alerts: Sequence[tuple[tuple[int, str, str], float]], run: int) -> go.Scatter | None:
    if not alerts:
        return None
    return go.Scatter(
        x=[step for (step, _, _), _ in alerts],
        y=[height for _, height in alerts],
        mode="markers",
        name="alerts",
        text=[""] * len(alerts),
        marker={
            "size": 10,
            "symbol": ["x"] * len(alerts),
            "color": [SEVERITY[severity_of(text) or "note"] for (_, _, text), _ in alerts],
        },
        hovertext=[f"alert, step {step}: {_hover(tag, text)}" for (step, tag, text), _ in alerts],
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
        showlegend=False,
        meta={"run": run, "role": "alerts"},
    )


def _hover(tag: str, text: str) -> str:
    """The alert's text without its table and its source, wrapped."""
    parts = [part for part in text.split("\n\n") if not part.startswith(("|", "Source:"))]
    words = [html.unescape(_MARKUP.sub(r"\1", part)) for part in parts] or [tag]
    lines = [line for part in words for line in textwrap.wrap(part, _WIDTH)]
    ellipsis = ["..."] if len(lines) > _LINES else []
    return "<br>".join(plain(line, 2 * _WIDTH) for line in (*lines[:_LINES], *ellipsis))
