"""Marks alerts of live rules in line charts."""

from __future__ import annotations

import html
import re
import textwrap

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
    """Creates a marker at the step of each alert, on the line of `series`; None without alerts.

    The alert's text is shown on hover, as plain text: a folder may contain anything.
    """
    alerts = {
        (int(step), tag): text
        for tag, texts in loaded_run.run.texts.items()
        if tag.startswith(PREFIX)
        for step, text in zip(texts.steps, texts.values, strict=True)
    }
    finite = np.isfinite(series.values)
    if not alerts or not finite.any():
        return None
    steps, values = series.steps[finite], series.values[finite]
    return go.Scatter(
        x=[step for step, _ in alerts],
        y=[float(values[np.argmin(np.abs(steps.astype(np.float64) - step))]) for step, _ in alerts],
        mode="markers",
        name="alerts",
        text=[""] * len(alerts),
        marker={
            "size": 10,
            "symbol": ["x"] * len(alerts),
            "color": [SEVERITY[severity_of(text) or "note"] for text in alerts.values()],
        },
        hovertext=[f"alert, step {step}: {_hover(tag, text)}" for (step, tag), text in alerts.items()],
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
