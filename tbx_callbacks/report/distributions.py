"""Draws histograms over time, for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tbx_callbacks.report.columns import step_column, value_column
from tbx_callbacks.report.downsampling import histogram_grid, quantiles
from tbx_callbacks.report.labels import plain
from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.plain_figure import plain_figure
from tbx_callbacks.runs.series import Histograms

_MAX_CELLS = 1_500_000  # of all histograms of a report together
_MAX_BUTTONS = 100  # each lists all traces
_QUANTILES = (0.05, 0.5, 0.95)


def histogram_families(loaded_runs: Sequence[LoadedRun]) -> dict[str, dict[str, list[Histograms | None]]]:
    """Maps family -> layer -> the histograms of each run."""
    by_family: dict[str, dict[str, list[Histograms | None]]] = {}
    for index, loaded_run in enumerate(loaded_runs):
        for tag, histograms in loaded_run.run.histograms.items():
            family, _, layer = tag.partition("/") if "/" in tag else ("histograms", "", tag)
            by_family.setdefault(family, {}).setdefault(layer, [None] * len(loaded_runs))[index] = histograms
    return by_family


def histogram_map(
    loaded_runs: Sequence[LoadedRun],
    layers: Mapping[str, Sequence[Histograms | None]],
    title: str,
    *,
    num_histograms: int,
) -> go.Figure:
    """Draws the distribution of a layer's values over steps, for each layer and run.

    `num_histograms` is the number of histograms in the report.
    """
    columns = int(np.clip(_MAX_CELLS // (64 * max(num_histograms, 1)), 10, 60))
    traces: list[Any] = []
    for layer, by_run in layers.items():
        for index, histograms in enumerate(by_run):
            if histograms is not None:
                traces += _over_time(histograms, columns, index, {"run": loaded_runs[index].name, "layer": layer})
    ends = [end for trace in traces if trace.type == "heatmap" for end in (trace.x[0], trace.x[-1])]
    single = {"tickvals": ends[:1], "ticktext": [f"{ends[0]:.0f}"]} if len(set(ends)) == 1 else {}
    for trace in traces:
        trace.visible = trace.meta["pick"] == traces[0].meta["pick"]
    return plain_figure(traces).update_layout(
        title=title,
        xaxis={"title": "step", **single},
        yaxis={"title": "value", "tickformat": "~g"},
        showlegend=False,
        meta={"kind": "histograms", "about": ""},
    )


def add_menu(figure: go.Figure) -> None:
    """Adds a drop-down list of the first 100 layers. A report's page has a list of its own."""
    by_trace = [trace.meta["pick"] for trace in figure.data]
    picks = list({tuple(pick.values()): pick for pick in by_trace}.values())[:_MAX_BUTTONS]
    has_several_runs = len({pick["run"] for pick in picks}) > 1
    buttons = [
        {
            "label": plain(f"{pick['run']}: {pick['layer']}" if has_several_runs else pick["layer"]),
            "method": "restyle",
            "args": [{"visible": [other == pick for other in by_trace]}],
        }
        for pick in picks
    ]
    figure.update_layout(updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.15, "yanchor": "top"}])


def _over_time(histograms: Histograms, columns: int, run: int, pick: Mapping[str, str]) -> list[Any]:
    steps, edges, shares = histogram_grid(histograms, columns=columns)
    if not steps.size:
        return []
    meta = {"run": run, "pick": dict(pick)}
    density = np.sqrt(shares / shares.max()) if shares.max() > 0 else shares
    centres = edges[:-1] / 2 + edges[1:] / 2
    heatmap = go.Heatmap(
        x=step_column(steps),
        y=value_column(centres),
        z=np.round(density * 255).astype(np.uint8),
        zmin=0,
        zmax=255,
        colorscale="Blues",
        showscale=False,
        hovertemplate="step %{x}<br>value %{y:.3~g}<extra></extra>",
        meta=meta,
    )
    last_indices = [max(n for n, step in enumerate(histograms.steps) if step <= at) for at in steps]
    bands = np.array(
        [
            quantiles(histograms.buckets[n], _QUANTILES) if len(histograms.buckets[n]) else (np.nan,) * 3
            for n in last_indices
        ]
    )
    gaps = np.full((3, 1), np.nan)
    lines = go.Scatter(
        x=step_column(np.tile(np.append(steps, steps[-1]), 3)),
        y=value_column(np.concatenate([bands.T, gaps], 1).ravel()),
        mode="lines" if len(steps) > 1 else "markers",
        line={"color": "#d55e00", "width": 1},
        marker={"color": "#d55e00", "symbol": "line-ew-open", "size": 14},
        hoverinfo="skip",
        meta=meta,
    )
    return [heatmap, lines]
