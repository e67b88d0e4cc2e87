"""Draws heat maps: layers by steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tbx_callbacks import tags
from tbx_callbacks.report.colours import HEAT, SEVERITY
from tbx_callbacks.report.columns import step_column, value_column
from tbx_callbacks.report.downsampling import heat_grid
from tbx_callbacks.report.labels import plain, short
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.rules.series_stats import outermost
from tbx_callbacks.runs.series import Floats, Run, Series

Families = Mapping[str, Mapping[str, Series]]
_LOG_RATIO = 30.0  # ratio of the largest to the smallest value above which the colour scale is logarithmic
_LAYER_FAMILIES = (
    tags.GRAD_NORM,
    tags.WEIGHT_NORM,
    "update_",
    tags.DRIFT,
    tags.MOVED_SHARE,
    "lora/",
    "spectral/",
    f"{tags.NONFINITE}/",
    f"{tags.OPTIMIZER_STATE}/",
    f"{tags.ACTIVATIONS}/",
)


def families(run: Run) -> dict[str, dict[str, Series]]:
    """Groups scalars by family and layer: `{"grad_norm": {"bert.encoder.layer.0": ...}}`. Nested layers are left out.

    The family is the part before the last `/`, or around the layer as in `activations/<module>/zero_share`.
    """
    by_family: dict[str, dict[str, Series]] = {}
    for tag, series in run.scalars.items():
        layer_match = re.fullmatch(rf"{tags.ACTIVATIONS}/(.+)/([^/]+)", tag)
        family, _, layer = (
            (f"{tags.ACTIVATIONS}/{layer_match[2]}", "", layer_match[1]) if layer_match else tag.rpartition("/")
        )
        if (
            family
            and layer != "total"
            and not family.startswith((tags.TRAIN, tags.EVAL, tags.LEARNING_RATE, tags.PERF, tags.MEMORY, tags.BEST))
        ):
            by_family.setdefault(family, {})[layer] = series
    by_layer = {
        family: outermost({f"x/{name}": row for name, row in rows.items()}) for family, rows in by_family.items()
    }
    return {family: rows for family, rows in by_layer.items() if _are_layers(family, rows)}


def heat_map(loaded_runs: Sequence[LoadedRun], by_run: Sequence[Families], family: str, title: str) -> go.Figure | None:
    """Draws one family as layers by steps, for each run that has it; `meta["pick"]` selects the run.

    `by_run` holds the `families` of each run.
    """
    traces: list[go.Heatmap] = []
    rows = 0
    for index, (loaded_run, run_families) in enumerate(zip(loaded_runs, by_run, strict=True)):
        series = run_families.get(family)
        if series:
            rows = max(rows, len(series))
            traces += _heat(series, index, {"run": loaded_run.name})
    if not traces:
        return None
    first = traces[0].meta["run"]
    for trace in traces:
        trace.visible = trace.meta["run"] == first
    return go.Figure(traces).update_layout(
        template="plotly_white",
        title=title,
        xaxis={"title": "step"},
        yaxis={"autorange": "reversed", "type": "category"},
        height=min(900, 110 + 19 * rows),
        meta={"kind": "heat", "about": ""},
    )


def _are_layers(family: str, rows: Mapping[str, Series]) -> bool:
    """Whether there are three or more rows of a known family, or with names that look like layers."""
    return len(rows) >= 3 and (family.startswith(_LAYER_FAMILIES) or sum("." in name for name in rows) * 2 >= len(rows))


def _heat(series: Mapping[str, Series], run: int, pick: Mapping[str, str]) -> list[go.Heatmap]:
    steps, values = heat_grid(list(series.values()))
    names = [plain(name) for name in short(series).values()]
    positive = values[np.isfinite(values) & (values > 0)]
    logarithmic = positive.size > 0 and positive.max() / positive.min() > _LOG_RATIO
    is_shown = np.isfinite(values) & ((values > 0) | (not logarithmic))
    with np.errstate(divide="ignore", invalid="ignore"):
        colour = np.where(is_shown, np.log10(values) if logarithmic else values, np.nan)
    common: dict[str, Any] = {
        "x": step_column(steps),
        "y": names,
        "ygap": 1 if len(names) < 40 else 0,
        "meta": {"run": run, "pick": dict(pick)},
    }
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
