"""What rules said while a run trained, as markers in its charts."""

from __future__ import annotations

import html
import re
import textwrap

import numpy as np
import plotly.graph_objects as go

from tbx_callbacks.report.colours import SEVERITY
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.rules.formatting import PREFIX, severity_of
from tbx_callbacks.runs.series import Series

_MARKUP = re.compile(r"\\(.)|\*\*")
_WIDTH, _LINES = 70, 12  # of what is shown on hover


def alert_markers(subject: LoadedRun, shown: Series, run: int) -> go.Scatter | None:
    """A marker at the step of each alert, on the line of the series that is shown; None without alerts.

    What was said stands in its hover text, as text: a folder may hold anything.
    """
    said = {
        (int(step), tag): text
        for tag, texts in subject.run.texts.items()
        if tag.startswith(PREFIX)
        for step, text in zip(texts.steps, texts.values, strict=True)
    }
    finite = np.isfinite(shown.values)
    if not said or not finite.any():
        return None
    steps, values = shown.steps[finite], shown.values[finite]
    return go.Scatter(
        x=[step for step, _ in said],
        y=[float(values[np.argmin(np.abs(steps - step))]) for step, _ in said],
        mode="markers",
        name="alerts",
        text=[""] * len(said),
        marker={
            "size": 10,
            "symbol": ["x"] * len(said),
            "color": [SEVERITY[severity_of(text) or "note"] for text in said.values()],
        },
        hovertext=[f"alert, step {step}: {_hover(tag, text)}" for (step, tag), text in said.items()],
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
        showlegend=False,
        meta={"run": run, "role": "alerts"},
    )


def _hover(tag: str, text: str) -> str:
    """What it says without its table and its source, in lines that fit."""
    parts = [part for part in text.split("\n\n") if not part.startswith(("|", "Source:"))]
    words = [html.unescape(_MARKUP.sub(r"\1", part)) for part in parts] or [tag]
    lines = [line for part in words for line in textwrap.wrap(part, _WIDTH)]
    more = ["..."] if len(lines) > _LINES else []
    return "<br>".join(plain(line, 2 * _WIDTH) for line in (*lines[:_LINES], *more))
