"""Robust statistics of series, and series grouped by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from tbx_callbacks.runs.series import Floats, Series


def finite(series: Series) -> Series:
    """The series without NaN and Inf."""
    good = np.isfinite(series.values)
    return Series(series.steps[good], series.values[good], series.wall_times[good])


def median(values: Floats) -> float:
    """The median as a float; NaN of nothing."""
    return float(np.median(values)) if len(values) else float("nan")


def noise(values: Floats) -> float:
    """The standard deviation of the noise, from the differences of neighbours: a trend does not count."""
    return 1.4826 * median(np.abs(np.diff(values))) / 2**0.5


def ends(values: Floats, share: float = 0.1, least: int = 3) -> tuple[float, float]:
    """The medians of the first and the last `share` of the values, of at least `least` each."""
    number = max(least, round(share * len(values)))
    return median(values[:number]), median(values[-number:])


def smooth(values: Floats, width: int) -> Floats:
    """The median of each value and the `width` - 1 before it, `[N - width + 1]`."""
    if len(values) < width:
        return np.empty(0)
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    return np.asarray(np.median(windows, axis=-1), np.float64)


def width_for(number: int, *, share: float = 0.1, least: int = 5, most: int = 100) -> int:
    """How many points a window has that smooths `number` of them."""
    return min(most, max(least, round(share * number)))


def outermost(series: Mapping[str, Series]) -> dict[str, Series]:
    """By group instead of by tag, without groups inside others: a layer's parameters where the layer is there too."""
    groups = {tag.partition("/")[2]: one for tag, one in series.items()}
    return {name: one for name, one in groups.items() if not _prefixes(name, groups)}


def _prefixes(name: str, groups: Mapping[str, object]) -> list[str]:
    parts = name.split(".")
    return [outer for n in range(1, len(parts)) if (outer := ".".join(parts[:n])) in groups]


def depth(name: str) -> tuple[str, int] | None:
    """The stack that a layer, or something in it, belongs to and its number there; None for embeddings and heads."""
    found = re.match(r"(.*?)\.(\d+)(?:\.|$)", name)
    return (found[1], int(found[2])) if found else None


def stack(norms: Mapping[str, Series]) -> dict[str, Floats]:
    """The largest stack of numbered layers, from the first to the last: layer -> norms over steps, of all its parts."""
    parts: dict[str, dict[int, list[Series]]] = {}
    for name, series in norms.items():
        place = depth(name)
        if place is not None:
            parts.setdefault(place[0], {}).setdefault(place[1], []).append(series)
    if not parts:
        return {}
    name, layers = max(parts.items(), key=lambda one: len(one[1]))
    return {f"{name}.{number}": _together(layers[number]) for number in sorted(layers)}


def _together(parts: Iterable[Series]) -> Floats:
    """The norm of all parts, on as many points as all of them have."""
    values = [series.values for series in parts]
    shortest = min(map(len, values))
    return np.asarray(np.sqrt(sum(np.square(one[-shortest:]) for one in values)))
