"""Draws a heat map of layers over steps, in a given number of lines and columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from tbx_callbacks._text import printable
from tbx_callbacks.monitor.scale import Scale, scale_of
from tbx_callbacks.report.downsampling import heat_grid
from tbx_callbacks.report.labels import short
from tbx_callbacks.runs.series import Floats, Series

COLOURS = ("#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
SHADES = "·░▒▓█"
_MISSING, _ZERO, _BAD = (" ", ""), ("0", "dim"), ("x", "bold white on red")
_MOST_LABEL = 28


def heat(rows: Mapping[str, Series], width: int, height: int, *, has_colours: bool) -> list[Text]:
    """Draws layers as lines and steps as columns; the first line is the scale.

    Neighbouring layers share a line if there are more layers than lines, and neighbouring steps a column: the largest
    value counts, and NaN or Inf, an `x`, before all others.

    Args:
        rows: the series of each layer.
        width: columns, with the names of the layers.
        height: lines, with the scale.
        has_colours: whether cells have colours; otherwise they are characters from light to dark.
    """
    if height < 1 or not rows:
        return []
    groups = (
        [part for part in np.array_split(np.arange(len(rows)), min(len(rows), height - 1)) if part.size]
        if height > 1
        else []
    )
    labels = _labels(list(short(rows).values()), groups)
    label_width = min(_MOST_LABEL, width // 3, max(map(cell_len, labels), default=0))
    columns = max(1, width - label_width - 1)
    _, values = heat_grid(list(rows.values()), most=columns)
    scale = scale_of(values[np.isfinite(values)], has_zeros_apart=True)
    stretched = values[:, np.arange(columns) * values.shape[1] // columns]
    lines = [_legend(scale, len(rows), len(groups), has_colours=has_colours)]
    for label, group in zip(labels, groups, strict=True):
        line = Text(label, no_wrap=True)
        line.truncate(label_width, overflow="ellipsis", pad=True)
        line.append(" ")
        lines.append(_cells(line, stretched[group].max(axis=0), scale, has_colours=has_colours))
    return lines


def _labels(names: list[str], groups: list[np.ndarray]) -> list[str]:
    firsts_and_lasts = [(printable(names[group[0]]), printable(names[group[-1]])) for group in groups]
    return [first if first == last else f"{first} to {last}" for first, last in firsts_and_lasts]


def _cells(line: Text, values: Floats, scale: Scale | None, *, has_colours: bool) -> Text:
    shares = scale(values) if scale is not None else np.full(len(values), math.nan)
    cells = [_cell(float(v), float(s), has_colours) for v, s in zip(values, shares, strict=True)]
    for (character, style), same in groupby(cells):
        line.append(character * len(list(same)), style)
    return line


def _cell(value: float, share: float, has_colours: bool) -> tuple[str, str]:
    """The character and the style of a value: NaN is bad, and -inf missing."""
    if math.isnan(value):
        return _BAD
    if value == -math.inf:
        return _MISSING
    if math.isnan(share):
        return _ZERO
    if has_colours:
        return " ", f"on {COLOURS[min(len(COLOURS) - 1, int(share * len(COLOURS)))]}"
    return SHADES[min(len(SHADES) - 1, int(share * len(SHADES)))], ""


def _legend(scale: Scale | None, layers: int, lines: int, *, has_colours: bool) -> Text:
    text = Text(f"{layers} layers" + (f" in {lines} lines, the largest value counts" if lines < layers else ""), "dim")
    if scale is not None:
        text.append(f"  {scale.low:.3g} ")
        if has_colours:
            for colour in COLOURS:
                text.append(" ", f"on {colour}")
        else:
            text.append(SHADES)
        text.append(f" {scale.high:.3g}" + (" log" if scale.is_log else ""))
    return text
