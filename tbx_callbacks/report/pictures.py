"""Pictures of the main figures, for papers and slides: drawn by matplotlib, which needs no browser and no network."""

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


def export(subjects: Sequence[LoadedRun], folder: Path) -> list[Path]:
    """Writes a PNG of every main figure: `loss.png`, `gradient_norm.png`, `grad_norm.png` (by layer), ...

    Of several runs the pictures by layer show the first.

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
    written = []
    for section in sections(subjects):
        for name, figure in section.figures.items() if section.id in MAIN else ():
            tall = figure.layout.height or 360
            page = Figure(figsize=(8, tall / 90), layout="constrained")
            _draw(page, figure)
            written.append(folder / f"{name}.png")
            page.savefig(written[-1], dpi=160)
    return written


def _draw(page: Any, figure: go.Figure) -> None:
    axes = page.add_subplot()
    shown = [trace for trace in figure.data if trace.visible is not False]
    for trace in shown:
        if trace.type == "heatmap":
            _heat(page, axes, trace)
        elif trace.meta.get("role") in ("findings", "alerts"):
            _findings(axes, trace)
        else:
            style = {"color": trace.line.color, "linestyle": _DASHES.get(trace.line.dash, "-"), "linewidth": 1.3}
            axes.plot(trace.x, trace.y, label=_text(trace.name), **style)
    axes.set_title(_text(figure.layout.title.text), loc="left", fontsize=11)
    axes.set_xlabel(_text(figure.layout.xaxis.title.text))
    axes.set_ylabel(_text(figure.layout.yaxis.title.text or ""))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if figure.layout.meta["kind"] == "lines":
        axes.grid(axis="y", alpha=0.25)
        if figure.layout.yaxis.rangemode == "tozero":
            axes.set_ylim(bottom=0)
        if figure.layout.showlegend:
            axes.legend(frameon=False, fontsize=9)


def _heat(page: Any, axes: Any, trace: go.Heatmap) -> None:
    steps, rows = np.asarray(trace.x, np.float64), len(trace.y)
    width = np.median(np.diff(steps)) if len(steps) > 1 else 1.0
    across = np.append(steps - width / 2, steps[-1] + width / 2)
    plain = len(trace.colorscale) == 2
    colours: dict[str, Any] = {"cmap": "viridis"}
    if plain:
        from matplotlib.colors import ListedColormap

        colours = {"cmap": ListedColormap([trace.colorscale[0][1]])}
    cells = np.ma.masked_invalid(np.asarray(trace.z, np.float64))
    drawn = axes.pcolormesh(across, np.arange(rows + 1) - 0.5, cells, **colours)
    axes.set_yticks(range(rows), [_text(name) for name in trace.y], fontsize=8 if rows < 40 else 4)
    axes.set_ylim(rows - 0.5, -0.5)
    if not plain:
        bar = page.colorbar(drawn, ax=axes, pad=0.01, aspect=30)
        if trace.colorbar.tickvals:
            bar.set_ticks(list(trace.colorbar.tickvals), labels=list(trace.colorbar.ticktext))


def _findings(axes: Any, trace: go.Scatter) -> None:
    for step, height, said, symbol, colour in zip(
        trace.x, trace.y, trace.text, trace.marker.symbol, trace.marker.color, strict=True
    ):
        axes.plot([step], [height], _MARKS[symbol], color=colour, markersize=7, zorder=5)
        axes.annotate(said, (step, height), (0, 7), textcoords="offset points", ha="center", color=colour)


def _text(text: str) -> str:
    """A label as it is: matplotlib would take what stands between dollars for a formula."""
    return unescape(text).replace("$", r"\$")
