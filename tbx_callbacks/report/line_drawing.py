"""Draws line charts: runs overlaid, over steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tbx_callbacks.report.alerts import alert_markers, alerts_off_line
from tbx_callbacks.report.charts import LineChart
from tbx_callbacks.report.colours import DASHES, MANY_RUNS, RUN_DASHES, RUNS, SEVERITY
from tbx_callbacks.report.columns import step_column, value_column
from tbx_callbacks.report.downsampling import thin
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.plain_figure import plain_figure
from tbx_callbacks.report.smoothing import smooth
from tbx_callbacks.rules import Finding
from tbx_callbacks.rules.required_series import EVAL_LOSS, TRAIN_LOSS
from tbx_callbacks.runs.series import Series

_MAX_MARKED_POINTS = 40  # longer series are drawn without markers
_SMOOTHING = (0.01, 0.05)  # half-lives of the two smoothing levels, as fractions of the number of points
_MAX_SYMBOLS = 8  # on a long line of one of many runs
_NO_VALUES = "all values are NaN or Inf"
Mark = Callable[[LoadedRun, Series, int], go.Scatter | None]
_SYMBOLS = {"error": "diamond", "warning": "triangle-up", "note": "circle"}


def line_chart(loaded_runs: Sequence[LoadedRun], chart: LineChart) -> go.Figure | None:
    """Draws a line for every tag that the chart selects, of every run; None without any.

    Lines of a single run differ by colour. With several runs, the colour and the symbol are the run, and the dash is
    the tag. With many runs, long lines have a few symbols too, and lines of a single tag a dash for each run. Markers
    show alerts of live rules. Each point carries its smoothed values (`customdata`, `[N, 2]`: somewhat, much).
    """
    labels: dict[str, int] = {}
    traces = []
    for index, loaded_run in enumerate(loaded_runs):
        for tag, label in chart.choice(loaded_run.run).items():
            label_index = labels.setdefault(label, len(labels))
            is_single_run = len(loaded_runs) == 1
            traces.append(
                _line(
                    loaded_run.run.scalars[tag],
                    name=plain(label if is_single_run else f"{loaded_run.name}: {label}"),
                    colour=RUNS[label_index % len(RUNS)] if is_single_run else loaded_run.colour,
                    dash="solid" if is_single_run else DASHES[label_index % len(DASHES)],
                    meta={"run": index, "label": plain(label)},
                )
            )
    is_many = len(loaded_runs) > MANY_RUNS
    for trace in traces if len(loaded_runs) > 1 else ():
        _mark_run(trace, loaded_runs[trace.meta["run"]].symbol, is_many=is_many, has_free_dash=len(labels) == 1)
    if not traces:
        return None
    figure = plain_figure(traces)
    if len(labels) == 1 and len(loaded_runs) > 1:
        for trace, run in zip(figure.data, (trace.meta["run"] for trace in figure.data), strict=True):
            trace.name = plain(loaded_runs[run].name)
    if not any(np.isfinite(np.asarray(trace.y, np.float64)).any() for trace in traces):
        figure.add_annotation(text=_NO_VALUES, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
        figure.update_yaxes(range=[0, 1], showticklabels=False, showgrid=False)
    figure.add_traces(_alerts(loaded_runs, chart, alert_markers))
    return figure.update_layout(
        title=plain(chart.title_for(labels)),
        hovermode="x unified",
        xaxis={"title": "step"},
        yaxis={"title": chart.unit, "tickformat": chart.scale, "rangemode": _range_mode(chart, figure.data)},
        showlegend=len(traces) > 1,
        meta={"kind": "lines", "about": chart.about},
    )


def _mark_run(trace: go.Scatter, symbol: str, *, is_many: bool, has_free_dash: bool) -> None:
    trace.marker.symbol = symbol
    if is_many and trace.mode == "lines":
        trace.update(mode="lines+markers", marker={"size": 6, "maxdisplayed": _MAX_SYMBOLS})
    if is_many and has_free_dash:
        trace.line.dash = RUN_DASHES[trace.meta["run"] % len(RUN_DASHES)]


def _range_mode(chart: LineChart, traces: Sequence[go.Scatter]) -> str:
    """Returns the range mode of the y axis. Around a constant, plotly shows 1 on both sides: 0.01 would look like 0."""
    values = [np.asarray(trace.y, np.float64) for trace in traces]
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    return "tozero" if finite.size and 0 < finite.min() == finite.max() else chart.rangemode


def loss_chart(loaded_runs: Sequence[LoadedRun], chart: LineChart) -> go.Figure | None:
    """Draws the losses, and marks the start of each finding with its number in the report."""
    figure = line_chart(loaded_runs, chart)
    if figure is None:
        return None
    start = 1
    drawn = np.concatenate([np.asarray(trace.y, np.float64) for trace in figure.data])
    lowest = float(np.min(drawn[np.isfinite(drawn)], initial=np.inf))
    lowest = lowest if np.isfinite(lowest) else 0.0
    for index, loaded_run in enumerate(loaded_runs):
        findings_by_step = _findings_by_step(loaded_run, start)
        start += len(loaded_run.diagnosis.findings)
        if findings_by_step and _losses(loaded_run):
            figure.add_trace(_markers(loaded_run, findings_by_step, index, lowest))
            if len(loaded_runs) > MANY_RUNS:  # numbers of so many runs would cover each other
                figure.data[-1].mode = "markers"
    off_line = _alerts(loaded_runs, chart, alerts_off_line)
    if off_line:
        figure.add_traces(off_line)
        figure.update_layout(yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True})
    return figure.update_layout(showlegend=len(figure.data) > 1)


def _alerts(loaded_runs: Sequence[LoadedRun], chart: LineChart, mark: Mark) -> list[go.Scatter]:
    """The alert markers of each run, on its first line in the chart."""
    first = {index: next(iter(chart.choice(loaded_run.run)), None) for index, loaded_run in enumerate(loaded_runs)}
    markers_by_run = [
        mark(loaded_runs[run], loaded_runs[run].run.scalars[tag], run) for run, tag in first.items() if tag
    ]
    return [markers for markers in markers_by_run if markers is not None]


def _line(series: Series, *, name: str, colour: str, dash: str, meta: Mapping[str, Any]) -> go.Scatter:
    selected = thin(series.values)
    values = np.where(np.isfinite(series.values), series.values, np.nan)
    smooth_values = None
    if len(series) >= _MAX_MARKED_POINTS:
        levels = [smooth(values, share * len(values))[selected] for share in _SMOOTHING]
        smooth_values = value_column(np.stack(levels, 1))
    return go.Scatter(
        x=step_column(series.steps[selected]),
        y=value_column(values[selected]),
        customdata=smooth_values,
        name=name,
        mode="lines" if len(series) > _MAX_MARKED_POINTS else "lines+markers",
        line={"color": colour, "dash": dash, "width": 1.6},
        marker={"color": colour, "size": 5},
        hovertemplate="%{y:.4~g}",
        meta=meta,
    )


def _findings_by_step(loaded_run: LoadedRun, start: int) -> dict[int, list[tuple[int, Finding]]]:
    """Maps each step to the numbered findings that begin there, worst first."""
    findings_by_step: dict[int, list[tuple[int, Finding]]] = {}
    for number, finding in enumerate(loaded_run.diagnosis.findings, start):
        if finding.steps:
            findings_by_step.setdefault(finding.steps[0], []).append((number, finding))
    return findings_by_step


def _markers(
    loaded_run: LoadedRun, findings_by_step: Mapping[int, list[tuple[int, Finding]]], run: int, lowest: float
) -> go.Scatter:
    severities = [numbered[0][1].severity for numbered in findings_by_step.values()]
    hover_texts = [
        "<br>".join(f"{number}. {plain(finding.severity)}: {plain(finding.id)}" for number, finding in numbered)
        for numbered in findings_by_step.values()
    ]
    return go.Scatter(
        x=list(findings_by_step),
        y=[_height(loaded_run, step, numbered[0][1], lowest) for step, numbered in findings_by_step.items()],
        mode="markers+text",
        name="findings",
        text=[", ".join(str(number) for number, _ in numbered) for numbered in findings_by_step.values()],
        textposition=("top center", "bottom center", "middle right", "middle left")[run % 4],
        textfont={"size": 12, "color": [SEVERITY[severity] for severity in severities]},
        marker={
            "size": 11,
            "symbol": [_SYMBOLS[severity] for severity in severities],
            "color": [SEVERITY[severity] for severity in severities],
        },
        hovertext=hover_texts,
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
        showlegend=False,
        meta={"run": run, "role": "findings"},
    )


def _losses(loaded_run: LoadedRun) -> dict[str, Series]:
    return {**TRAIN_LOSS.all(loaded_run.run), **EVAL_LOSS.all(loaded_run.run)}


def _height(loaded_run: LoadedRun, step: int, finding: Finding, lowest: float) -> float:
    """The loss at a step: the evaluation loss if the finding is about it, and `lowest` without a finite loss."""
    losses = _losses(loaded_run)
    series = next((losses[tag] for tag in finding.tags if tag in losses), None) or next(iter(losses.values()))
    finite = np.isfinite(series.values)
    if not finite.any():
        return lowest
    index = int(np.argmin(np.abs(series.steps[finite].astype(np.float64) - step)))
    return float(series.values[finite][index])
