"""Draws two curves over steps with Braille dots and points, in a given number of lines and columns."""

from __future__ import annotations

import numpy as np
from rich.text import Text

from tbx_callbacks.monitor.curves import Pair
from tbx_callbacks.monitor.scale import Scale, scale_of
from tbx_callbacks.runs.series import Floats, Series

MAIN, BESIDE, BAD = "cyan", "bold yellow", "bold red"
POINT = "•"
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a Braille character, rows by columns
_LABEL = 8


def plot(pair: Pair, width: int, height: int) -> list[Text]:
    """Draws the main curve as a line and the other one as points; an `x` marks a column with NaN or Inf.

    Args:
        pair: the curves.
        width: columns, with the labels of the scale.
        height: lines.
    """
    known = [series for series in pair if series is not None]
    columns = width - _LABEL - 1
    if not known or height < 1 or columns < 1:
        return [Text() for _ in range(max(0, height))]
    scale = scale_of(np.concatenate([series.values for series in known]))
    steps = np.concatenate([series.steps[[0, -1]] for series in known]).astype(np.float64)
    first, last = float(steps.min()), float(steps.max())
    canvas = np.zeros((4 * height, 2 * columns), bool)
    marks: dict[tuple[int, int], tuple[str, str]] = {}
    if scale is not None and pair.main is not None:
        _draw_line(canvas, *_dots(pair.main, scale, (first, last), canvas.shape))
    if scale is not None and pair.beside is not None:
        across, down = _dots(pair.beside, scale, (first, last), canvas.shape)
        marks |= {(int(y) // 4, int(x) // 2): (POINT, BESIDE) for x, y in zip(across, down, strict=True)}
    for series in known:
        bad = _across(series, (first, last), canvas.shape[1])[~np.isfinite(series.values)]
        marks |= {(height - 1, int(x) // 2): ("x", BAD) for x in bad}
    return [_row(canvas, marks, row, columns, _label(scale, row, height)) for row in range(height)]


def _across(series: Series, ends: tuple[float, float], columns: int) -> Floats:
    first, last = ends
    if last <= first:
        return np.full(len(series), columns // 2, np.float64)
    return np.floor((series.steps.astype(np.float64) - first) / (last - first) * (columns - 1))


def _dots(series: Series, scale: Scale, ends: tuple[float, float], shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """The column and the row of each value that the scale shows."""
    share = scale(series.values)
    is_shown = np.isfinite(share)
    return _across(series, ends, shape[1])[is_shown], np.round((1 - share[is_shown]) * (shape[0] - 1))


def _draw_line(canvas: np.ndarray, across: Floats, down: Floats) -> None:
    """Sets the dots of a line; a column with several values has all rows from the smallest to the largest."""
    if not across.size:
        return
    starts = np.flatnonzero(np.concatenate([[True], np.diff(across) != 0]))
    highest, lowest = np.minimum.reduceat(down, starts), np.maximum.reduceat(down, starts)
    firsts, lasts = down[starts], down[np.concatenate([starts[1:] - 1, [len(down) - 1]])]
    columns = across[starts].astype(np.intp)
    for index, column in enumerate(columns):
        canvas[int(highest[index]) : int(lowest[index]) + 1, column] = True
        if index:
            between = np.arange(columns[index - 1], column + 1)
            rows = np.interp(between, columns[index - 1 : index + 1], [lasts[index - 1], firsts[index]]).round()
            for at, (row, after) in enumerate(zip(rows[:-1].astype(int), rows[1:].astype(int), strict=True)):
                canvas[min(row, after) : max(row, after) + 1, between[at + 1]] = True


def _label(scale: Scale | None, row: int, height: int) -> str:
    if scale is None:
        return ""
    if row == 0:
        return f"{scale.high:.4g}"
    if row == height - 1:
        return f"{scale.low:.4g}" if scale.low != scale.high else ""
    return "log" if scale.is_log and row == height // 2 else ""


def _row(canvas: np.ndarray, marks: dict[tuple[int, int], tuple[str, str]], row: int, columns: int, label: str) -> Text:
    text = Text(no_wrap=True).append(f"{label[:_LABEL]:>{_LABEL}}", "dim")
    text.append("│", "dim")
    cells = canvas[4 * row : 4 * row + 4].reshape(4, columns, 2)
    codes = (cells * _DOTS[:, None, :]).sum(axis=(0, 2))
    for column, code in enumerate(codes.tolist()):
        character, style = marks.get((row, column)) or (chr(0x2800 + code) if code else " ", MAIN)
        text.append(character, style)
    return text
