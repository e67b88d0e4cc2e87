"""Writes the main figures as PNG files with matplotlib, which needs no browser and no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.sections import sections

MAIN = ("training", "gradients", "layers", "speed")
_DASHES = {"dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 2, 3))}
_MARKS = {"diamond": "D", "triangle-up": "^", "circle": "o", "x": "X"}


def export(loaded_runs: Sequence[LoadedRun], folder: Path) -> list[Path]:
    """Writes a PNG of every main figure: `loss.png`, `gradient_norm.png`, `grad_norm.png` (by layer), ...

    With several runs, figures by layer show the first run.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib, which is not installed; run: pip install 'tbx-callbacks[report]'"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for section in sections(loaded_runs):
        for name, figure in section.figures.items() if section.id in MAIN else ():
            height_px = figure.layout.height or 360
            canvas = Figure(figsize=(8, height_px / 90), layout="constrained")
            _draw(canvas, figure)
            paths.append(folder / f"{name}.png")
            canvas.savefig(paths[-1], dpi=160)
    return paths


def _draw(canvas: Any, figure: go.Figure) -> None:
    axes = canvas.add_subplot()
    visible = [trace for trace in figure.data if trace.visible is not False]
    for trace in visible:
        if trace.type == "heatmap":
            _draw_heatmap(canvas, axes, trace)
        elif trace.meta.get("role") in ("findings", "alerts"):
            _draw_findings(axes, trace)
        else:
            style = {"color": trace.line.color, "linestyle": _DASHES.get(trace.line.dash, "-"), "linewidth": 1.3}
            axes.plot(trace.x, trace.y, label=_label(trace.name), **style)
    axes.set_title(_label(figure.layout.title.text), loc="left", fontsize=11)
    axes.set_xlabel(_label(figure.layout.xaxis.title.text))
    axes.set_ylabel(_label(figure.layout.yaxis.title.text or ""))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if figure.layout.meta["kind"] == "lines":
        axes.grid(axis="y", alpha=0.25)
        if figure.layout.yaxis.rangemode == "tozero":
            axes.set_ylim(bottom=0)
        if figure.layout.showlegend:
            axes.legend(frameon=False, fontsize=9)


def _draw_heatmap(canvas: Any, axes: Any, trace: go.Heatmap) -> None:
    steps, rows = np.asarray(trace.x, np.float64), len(trace.y)
    width = np.median(np.diff(steps)) if len(steps) > 1 else 1.0
    x_edges = np.append(steps - width / 2, steps[-1] + width / 2)
    is_mask = len(trace.colorscale) == 2
    colours: dict[str, Any] = {"cmap": "viridis"}
    if is_mask:
        from matplotlib.colors import ListedColormap

        colours = {"cmap": ListedColormap([trace.colorscale[0][1]])}
    cells = np.ma.masked_invalid(np.asarray(trace.z, np.float64))
    mesh = axes.pcolormesh(x_edges, np.arange(rows + 1) - 0.5, cells, **colours)
    axes.set_yticks(range(rows), [_label(name) for name in trace.y], fontsize=8 if rows < 40 else 4)
    axes.set_ylim(rows - 0.5, -0.5)
    if not is_mask:
        bar = canvas.colorbar(mesh, ax=axes, pad=0.01, aspect=30)
        if trace.colorbar.tickvals:
            bar.set_ticks(list(trace.colorbar.tickvals), labels=list(trace.colorbar.ticktext))


def _draw_findings(axes: Any, trace: go.Scatter) -> None:
    for step, height, label, symbol, colour in zip(
        trace.x, trace.y, trace.text, trace.marker.symbol, trace.marker.color, strict=True
    ):
        axes.plot([step], [height], _MARKS[symbol], color=colour, markersize=7, zorder=5)
        axes.annotate(label, (step, height), (0, 7), textcoords="offset points", ha="center", color=colour)


def _label(text: str) -> str:
    """Escapes dollar signs in a label, which matplotlib would interpret as a formula."""
    return unescape(text).replace("$", r"\$")
