"""Draws the main figures as PNG files with matplotlib, which needs no browser and no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import unescape
from io import BytesIO
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tbx_callbacks.report.loaded_runs import LoadedRun
from tbx_callbacks.report.sections import sections
from tbx_callbacks.writers.figure_fonts import fonts_of_all_characters

MAIN = ("training", "gradients", "layers", "speed")
_STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "savefig.dpi": 160,
    "text.parse_math": False,
}
_DASHES = {"dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 2, 3))}
_MARKS = {"diamond": "D", "triangle-up": "^", "circle": "o", "x": "X"}

_RUN_MARKS = {
    "circle": "o",
    "square": "s",
    "triangle-down": "v",
    "cross": "P",
    "star": "*",
    "bowtie": "d",
    "pentagon": "p",
}


def pictures(loaded_runs: Sequence[LoadedRun]) -> dict[str, bytes]:
    """Draws every main figure as a PNG file, by name: `loss.png`, `gradient_norm.png`, `grad_norm.png` (by layer), ...

    With several runs, figures by layer show the first run.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib, which is not installed; run: pip install 'tbx-callbacks[report]'"
        ) from error
    drawn: dict[str, bytes] = {}
    with matplotlib.rc_context(_STYLE):
        for section in sections(loaded_runs):
            for name, figure in section.figures.items() if section.id in MAIN else ():
                canvas = Figure(figsize=(8, (figure.layout.height or 360) / 90))
                _draw(canvas.add_subplot(), figure)
                picture = BytesIO()
                with fonts_of_all_characters(canvas):
                    canvas.savefig(picture, format="png")
                drawn[f"{name}.png"] = picture.getvalue()
    return drawn


def _draw(axes: Any, figure: go.Figure) -> None:
    for trace in figure.data:
        if trace.visible is False:
            continue
        if trace.type == "heatmap":
            _draw_heatmap(axes, trace)
        elif trace.meta.get("role") in ("findings", "alerts"):
            for x, y, label, symbol, colour in zip(
                trace.x, trace.y, trace.text, trace.marker.symbol, trace.marker.color, strict=True
            ):
                place = axes.get_xaxis_transform() if trace.yaxis == "y2" else axes.transData  # y2: on the x axis
                axes.plot(x, y, _MARKS[symbol], color=colour, markersize=7, zorder=5, transform=place, clip_on=False)
                axes.annotate(label, (x, y), (0, 7), textcoords="offset points", ha="center", color=colour)
        else:
            dash = _DASHES.get(trace.line.dash, "-")
            marker = _RUN_MARKS.get(trace.marker.symbol, "") if trace.marker.maxdisplayed else ""
            every = max(1, len(trace.x) // 8)
            style = {
                "color": trace.line.color,
                "linestyle": dash,
                "marker": marker,
                "markevery": every,
                "markersize": 4,
            }
            axes.plot(trace.x, trace.y, label=unescape(trace.name), **style)
    layout = figure.layout
    texts = {"title": layout.title.text, "xlabel": layout.xaxis.title.text, "ylabel": layout.yaxis.title.text or ""}
    axes.set(**{name: unescape(text) for name, text in texts.items()})
    if layout.meta["kind"] == "lines":
        axes.grid(axis="y", alpha=0.25)
        if layout.yaxis.rangemode == "tozero":
            axes.set_ylim(bottom=0)
        if layout.showlegend:
            axes.legend()


def _draw_heatmap(axes: Any, trace: go.Heatmap) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    steps, rows = np.asarray(trace.x, np.float64), len(trace.y)
    width = np.median(np.diff(steps)) if len(steps) > 1 else 1.0
    edges = np.append(steps - width / 2, steps[-1] + width / 2)
    colours = LinearSegmentedColormap.from_list("", trace.colorscale)
    shown = np.ma.masked_invalid(trace.z)
    mesh = axes.pcolormesh(edges, np.arange(rows + 1) - 0.5, shown, cmap=colours, vmin=trace.zmin, vmax=trace.zmax)
    axes.set_yticks(range(rows), map(unescape, trace.y), fontsize=8 if rows < 40 else 4)
    axes.set_ylim(rows - 0.5, -0.5)
    if trace.showscale is not False:
        bar = axes.figure.colorbar(mesh, ax=axes, pad=0.01, aspect=30)
        if trace.colorbar.tickvals:
            bar.set_ticks(trace.colorbar.tickvals, labels=trace.colorbar.ticktext)
