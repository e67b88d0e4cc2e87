"""Line charts: runs overlaid, over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tbx_callbacks.report.alerts import alert_markers
from tbx_callbacks.report.colours import DASHES, RUNS, SEVERITY
from tbx_callbacks.report.downsampling import smoothed, thin
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.line_charts import LineChart
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.rules import Finding
from tbx_callbacks.rules.needs import EVAL_LOSS, TRAIN_LOSS
from tbx_callbacks.runs.series import Series

_FEW = 40  # points that are shown as points
_SMOOTHING = (0.01, 0.05)  # half-lives of the two smoothings, as shares of the points
_SYMBOLS = {"error": "diamond", "warning": "triangle-up", "note": "circle"}


def line_chart(subjects: Sequence[LoadedRun], chart: LineChart) -> go.Figure | None:
    """A line for every tag that the chart chooses, of every run; None where there is none.

    Of one run lines differ by colour; of several runs a run is a colour and a tag a dash. Markers show where rules
    spoke while the run trained. Each point carries its
    smoothed values (`customdata`, `[N, 2]`: somewhat, much).
    """
    labels: dict[str, int] = {}
    traces = []
    for place, subject in enumerate(subjects):
        for tag, label in chart.choice(subject.run).items():
            kind = labels.setdefault(label, len(labels))
            alone = len(subjects) == 1
            traces.append(
                _line(
                    subject.run.scalars[tag],
                    name=plain(label if alone else f"{subject.name}: {label}"),
                    colour=RUNS[kind % len(RUNS)] if alone else subject.colour,
                    dash="solid" if alone else DASHES[kind % len(DASHES)],
                    meta={"run": place, "label": plain(label)},
                )
            )
    if not traces:
        return None
    figure = go.Figure(traces)
    if len(labels) == 1 and len(subjects) > 1:
        for trace, run in zip(figure.data, (trace.meta["run"] for trace in figure.data), strict=True):
            trace.name = plain(subjects[run].name)
    figure.add_traces(_alerts(subjects, chart))
    return figure.update_layout(
        template="plotly_white",
        title=chart.title,
        hovermode="x unified",
        xaxis={"title": "step"},
        yaxis={"title": chart.unit, "tickformat": chart.scale, "rangemode": chart.rangemode},
        showlegend=len(traces) > 1,
        meta={"kind": "lines", "about": chart.about},
    )


def loss_chart(subjects: Sequence[LoadedRun], chart: LineChart) -> go.Figure | None:
    """The losses, and where each finding begins, with its number in the report."""
    figure = line_chart(subjects, chart)
    if figure is None:
        return None
    start = 1
    for place, subject in enumerate(subjects):
        marks = _marks(subject, start)
        start += len(subject.diagnosis.findings)
        if marks:
            figure.add_trace(_markers(subject, marks, place))
    return figure.update_layout(showlegend=len(figure.data) > 1)


def _alerts(subjects: Sequence[LoadedRun], chart: LineChart) -> list[go.Scatter]:
    """Of each run that the chart shows, on its first line."""
    first = {place: next(iter(chart.choice(subject.run)), None) for place, subject in enumerate(subjects)}
    made = [alert_markers(subjects[run], subjects[run].run.scalars[tag], run) for run, tag in first.items() if tag]
    return [markers for markers in made if markers is not None]


def _line(series: Series, *, name: str, colour: str, dash: str, meta: Mapping[str, Any]) -> go.Scatter:
    kept = thin(series.values)
    values = np.where(np.isfinite(series.values), series.values, np.nan)
    smooth = None
    if len(series) >= _FEW:
        levels = [smoothed(values, share * len(values))[kept] for share in _SMOOTHING]
        smooth = np.stack(levels, 1).astype(np.float32)
    return go.Scatter(
        x=series.steps[kept].astype(np.int32),
        y=values[kept].astype(np.float32),
        customdata=smooth,
        name=name,
        mode="lines" if len(series) > _FEW else "lines+markers",
        line={"color": colour, "dash": dash, "width": 1.6},
        marker={"color": colour, "size": 5},
        hovertemplate="%{y:.4~g}",
        meta=meta,
    )


def _marks(subject: LoadedRun, start: int) -> dict[int, list[tuple[int, Finding]]]:
    """Step -> the findings that begin there, with their numbers, worst first."""
    marks: dict[int, list[tuple[int, Finding]]] = {}
    for number, finding in enumerate(subject.diagnosis.findings, start):
        if finding.steps:
            marks.setdefault(finding.steps[0], []).append((number, finding))
    return marks


def _markers(subject: LoadedRun, marks: Mapping[int, list[tuple[int, Finding]]], run: int) -> go.Scatter:
    severities = [found[0][1].severity for found in marks.values()]
    said = [
        "<br>".join(f"{number}. {plain(finding.severity)}: {plain(finding.id)}" for number, finding in found)
        for found in marks.values()
    ]
    return go.Scatter(
        x=list(marks),
        y=[_height(subject, step, found[0][1]) for step, found in marks.items()],
        mode="markers+text",
        name="findings",
        text=[", ".join(str(number) for number, _ in found) for found in marks.values()],
        textposition=("top center", "bottom center", "middle right", "middle left")[run % 4],
        textfont={"size": 12, "color": [SEVERITY[severity] for severity in severities]},
        marker={
            "size": 11,
            "symbol": [_SYMBOLS[severity] for severity in severities],
            "color": [SEVERITY[severity] for severity in severities],
        },
        hovertext=said,
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
        showlegend=False,
        meta={"run": run, "role": "findings"},
    )


def _height(subject: LoadedRun, step: int, finding: Finding) -> float:
    """The loss at a step: that of the evaluation if the finding is about it."""
    losses = {**TRAIN_LOSS.all(subject.run), **EVAL_LOSS.all(subject.run)}
    shown = next((losses[tag] for tag in finding.tags if tag in losses), None) or next(iter(losses.values()))
    finite = np.isfinite(shown.values)
    if not finite.any():
        return 0.0
    place = int(np.argmin(np.abs(shown.steps[finite] - step)))
    return float(shown.values[finite][place])
