"""Computes robust statistics of series, and groups series by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from tbx_callbacks.runs.series import Floats, Series, Steps


def finite(series: Series) -> Series:
    """Returns the series without NaN and Inf."""
    is_finite = np.isfinite(series.values)
    return Series(series.steps[is_finite], series.values[is_finite], series.wall_times[is_finite])


def interval(steps: Steps, index: int) -> str:
    """Returns where a value was first seen: `at step b`, or `between steps a and b` if no step between was logged."""
    step = int(steps[index])
    if index == 0 or int(steps[index - 1]) >= step - 1:
        return f"at step {step}"
    return f"between steps {int(steps[index - 1]) + 1} and {step}"


def median(values: Floats) -> float:
    """Returns the median as a float; NaN for no values."""
    return float(np.median(values)) if len(values) else float("nan")


def noise(values: Floats) -> float:
    """Returns the standard deviation of the noise, from differences of neighbours so that a trend does not count.

    Second differences leave a steep trend out too, which matters in a short series.
    """
    first = 1.4826 * median(np.abs(np.diff(values))) / 2**0.5
    second = 1.4826 * median(np.abs(np.diff(values, 2))) / 6**0.5
    return first if np.isnan(second) else min(first, second)


def ends(values: Floats, share: float = 0.1, least: int = 3) -> tuple[float, float]:
    """Returns the medians of the first and the last `share` of the values, at least `least` values each."""
    number = max(least, round(share * len(values)))
    return median(values[:number]), median(values[-number:])


def smooth(values: Floats, width: int) -> Floats:
    """Returns running medians, each over a value and the `width` - 1 values before it, `[N - width + 1]`."""
    if len(values) < width:
        return np.empty(0)
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    return np.asarray(np.median(windows, axis=-1), np.float64)


def width_for(number: int, *, share: float = 0.1, least: int = 5, most: int = 100) -> int:
    """Returns the window width for smoothing `number` points."""
    return min(most, max(least, round(share * number)))


def outermost(series: Mapping[str, Series]) -> dict[str, Series]:
    """Returns the series by group instead of by tag, without groups that lie inside another group of the mapping."""
    groups = {tag.partition("/")[2]: group_series for tag, group_series in series.items()}
    return {name: group_series for name, group_series in groups.items() if not _prefixes(name, groups)}


def _prefixes(name: str, groups: Mapping[str, object]) -> list[str]:
    parts = name.split(".")
    return [outer for n in range(1, len(parts)) if (outer := ".".join(parts[:n])) in groups]


def depth(name: str) -> tuple[str, int] | None:
    """Returns the stack that a layer belongs to and its number in it; None for embeddings and heads."""
    numbered = re.match(r"(.*?)\.(\d+)(?:\.|$)", name)
    return (numbered[1], int(numbered[2])) if numbered else None


def stack(norms: Mapping[str, Series]) -> dict[str, Floats]:
    """Returns the largest stack of numbered layers in order: layer -> norm of all its parts over steps."""
    parts: dict[str, dict[int, list[Series]]] = {}
    for name, series in norms.items():
        position = depth(name)
        if position is not None:
            parts.setdefault(position[0], {}).setdefault(position[1], []).append(series)
    if not parts:
        return {}
    name, layers = max(parts.items(), key=lambda item: len(item[1]))
    return {f"{name}.{number}": _combined_norm(layers[number]) for number in sorted(layers)}


def _combined_norm(parts: Iterable[Series]) -> Floats:
    """Returns the combined norm of all parts, for the last points that all of them have."""
    values = [series.values for series in parts]
    shortest = min(map(len, values))
    return np.asarray(np.sqrt(sum(np.square(norms_of_part[-shortest:]) for norms_of_part in values)))
