"""Draws heat maps: layers by steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tbx_callbacks import tags
from tbx_callbacks.report.colours import CHANGE, HEAT, SEVERITY
from tbx_callbacks.report.columns import step_column, value_column
from tbx_callbacks.report.downsampling import heat_grid
from tbx_callbacks.report.labels import plain, short
from tbx_callbacks.report.layer_families import LOG_RATIO, Families
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.plain_figure import plain_figure
from tbx_callbacks.runs.series import Floats, Series

_RELATIVE = (tags.WEIGHT_NORM,)
"""Families whose values hardly change: their maps show the change since the first point."""
_ABOUT_CHANGE = "Change since the layer's first point that is not 0. Hover shows the norm."
_MOST_CHANGE = 1.0  # where the colours end


def heat_map(loaded_runs: Sequence[LoadedRun], by_run: Sequence[Families], family: str, title: str) -> go.Figure | None:
    """Draws one family as layers by steps, for each run that has it; `meta["pick"]` selects the run.

    `by_run` holds the `families` of each run. Weight norms are drawn relative to their first point.
    """
    traces: list[go.Heatmap] = []
    rows, is_relative = 0, False
    for index, (loaded_run, run_families) in enumerate(zip(loaded_runs, by_run, strict=True)):
        series = run_families.get(family)
        if series:
            rows = max(rows, len(series))
            draw = _change if family in _RELATIVE and _has_change(series) else _heat
            is_relative |= draw is _change
            traces += draw(series, index, {"run": loaded_run.name})
    if not traces:
        return None
    first = traces[0].meta["run"]
    for trace in traces:
        trace.visible = trace.meta["run"] == first
    return plain_figure(traces).update_layout(
        title=title,
        xaxis={"title": "step"},
        yaxis={"autorange": "reversed", "type": "category"},
        height=min(900, 110 + 19 * rows),
        meta={"kind": "heat", "about": _ABOUT_CHANGE if is_relative else ""},
    )


def _heat(series: Mapping[str, Series], run: int, pick: Mapping[str, str]) -> list[go.Heatmap]:
    steps, values = heat_grid(list(series.values()))
    names = [plain(name) for name in short(series).values()]
    positive = values[np.isfinite(values) & (values > 0)]
    logarithmic = positive.size > 0 and positive.max() / positive.min() > LOG_RATIO
    is_shown = np.isfinite(values) & ((values > 0) | (not logarithmic))
    with np.errstate(divide="ignore", invalid="ignore"):
        colour = np.where(is_shown, np.log10(values) if logarithmic else values, np.nan)
    common = _common(steps, names, run, pick)
    hover = "step %{x}<br>%{y}<br>%{customdata:.4~g}<extra></extra>"
    main = go.Heatmap(
        z=value_column(colour),
        customdata=value_column(values),
        colorscale=HEAT,
        colorbar=_bar(colour, logarithmic=bool(logarithmic)),
        hovertemplate=hover,
        hoverongaps=False,
        **common,
    )
    masks = [
        _mask_trace(np.isnan(values), SEVERITY["error"], "NaN or Inf", common),
        _mask_trace((values == 0) & bool(logarithmic), "#9aa3af", "exactly 0", common),
    ]
    return [main, *(trace for trace in masks if trace is not None)]


def _common(steps: Floats, names: Sequence[str], run: int, pick: Mapping[str, str]) -> dict[str, Any]:
    return {
        "x": step_column(steps),
        "y": names,
        "ygap": 1 if len(names) < 40 else 0,
        "meta": {"run": run, "pick": dict(pick)},
    }


def _has_change(series: Mapping[str, Series]) -> bool:
    """Whether any layer has two points: one point has no change."""
    return any(len(row) > 1 for row in series.values())


def _change(series: Mapping[str, Series], run: int, pick: Mapping[str, str]) -> list[go.Heatmap]:
    """The change of each row since its first finite value that is not 0."""
    steps, values = heat_grid(list(series.values()))
    first = np.array([_first(row.values) for row in series.values()])[:, None]
    change = np.where(np.isfinite(values), values / first - 1, np.nan)
    common = _common(steps, [plain(name) for name in short(series).values()], run, pick)
    most = float(np.clip(np.max(np.abs(change[np.isfinite(change)]), initial=1e-9), None, _MOST_CHANGE))
    main = go.Heatmap(
        z=value_column(change),
        zmin=-most,
        zmid=0,
        zmax=most,
        customdata=value_column(values),
        colorscale=CHANGE,
        colorbar={"thickness": 10, "outlinewidth": 0, "tickformat": "+.2~p"},
        hovertemplate="step %{x}<br>%{y}<br>%{z:+.3~p}, norm %{customdata:.4~g}<extra></extra>",
        hoverongaps=False,
        **common,
    )
    mask = _mask_trace(np.isnan(values), SEVERITY["error"], "NaN or Inf", common)
    return [main] if mask is None else [main, mask]


def _first(values: Floats) -> float:
    known = values[np.isfinite(values) & (values != 0)]
    return float(known[0]) if len(known) else float("nan")


def _mask_trace(cells: Any, colour: str, label: str, common: Mapping[str, Any]) -> go.Heatmap | None:
    if not cells.any():
        return None
    return go.Heatmap(
        z=np.where(cells, 1.0, np.nan).astype(np.float32),
        colorscale=[[0, colour], [1, colour]],
        showscale=False,
        hovertemplate=f"step %{{x}}<br>%{{y}}<br>{label}<extra></extra>",
        hoverongaps=False,
        name=label,
        **common,
    )


def _bar(colour: Floats, *, logarithmic: bool) -> dict[str, Any]:
    bar: dict[str, Any] = {"thickness": 10, "outlinewidth": 0, "tickformat": "~g"}
    if logarithmic:
        low, high = np.nanmin(colour), np.nanmax(colour)
        ticks = np.arange(np.ceil(low), np.floor(high) + 1)
        ticks = ticks[:: max(1, len(ticks) // 5)] if len(ticks) > 1 else np.linspace(low, high, 3)
        bar |= {"tickvals": ticks.tolist(), "ticktext": [f"{10**tick:.2g}" for tick in ticks]}
    return bar
