"""Downsamples long series without losing extremes, and smooths them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tbx_callbacks.runs.series import Floats, Histograms, Series

MAX_POINTS = 1200  # per line; a screen has no more columns
_WIDEST = 1e300  # twice and more of it must be a number for whatever draws the bins, too
Indices = NDArray[np.intp]


def thin(values: Floats, most: int = MAX_POINTS) -> Indices:
    """Selects the indices of `values`, `[N]`, to draw: all, or at most `most`.

    Each interval of equal length keeps its smallest and largest value, so every spike stays at its height and step. It
    also keeps one value that is not finite, so every gap stays visible. The first and the last value are always kept.
    """
    if most < 5:
        raise ValueError(f"most must be at least 5, got {most}")
    if len(values) <= most:
        return np.arange(len(values))
    num_parts = (most - 2) // 3
    edges = np.linspace(0, len(values), num_parts + 1).astype(np.intp)
    selected = {0, len(values) - 1}
    for start, end in pairwise(edges.tolist()):
        selected.update(start + index for index in _extremes(values[start:end]))
    return np.array(sorted(selected), np.intp)


def _extremes(values: Floats) -> list[int]:
    finite = np.isfinite(values)
    if finite.all():
        return [int(values.argmin()), int(values.argmax())]
    gap = int(np.argmin(finite))
    if not finite.any():
        return [gap]
    return [int(np.where(finite, values, np.inf).argmin()), int(np.where(finite, values, -np.inf).argmax()), gap]


def heat_grid(rows: Sequence[Series], most: int = 240) -> tuple[Floats, Floats]:
    """Aligns series as rows over common columns: the columns' steps, `[C]`, and values, `[R, C]`.

    A column is a step of any row, or an interval of steps, where the largest value counts. It is NaN where any value is
    not finite, and -inf where a row has no value.
    """
    steps = np.unique(np.concatenate([row.steps for row in rows]))
    starts = np.unique(np.linspace(0, len(steps), min(most, len(steps)), endpoint=False).astype(np.intp))
    columns = steps[starts]
    values = np.full((len(rows), len(columns)), -np.inf)
    for index, row in enumerate(rows):
        at = np.searchsorted(columns, row.steps, side="right") - 1
        finite = np.isfinite(row.values)
        np.maximum.at(values[index], at[finite], row.values[finite])
        values[index, at[~finite]] = np.nan
    return columns.astype(np.float64), values


def histogram_grid(histograms: Histograms, *, columns: int, bins: int = 64) -> tuple[Floats, Floats, Floats]:
    """Resamples histograms to common bins: the columns' steps, `[C]`, bin edges, `[bins + 1]`, and shares, `[bins, C]`.

    An interval of steps is averaged. The bins span all elements except a thousandth at either end.
    """
    nonempty = [index for index, counts in enumerate(histograms.buckets) if len(counts) and counts[:, 2].sum() > 0]
    if not nonempty:
        return np.empty(0), np.linspace(0, 1, bins + 1), np.empty((bins, 0))
    groups = np.array_split(np.array(nonempty), min(columns, len(nonempty)))
    low = min(_quantile(histograms.buckets[index], 0.001) for index in nonempty)
    high = max(_quantile(histograms.buckets[index], 0.999) for index in nonempty)
    with np.errstate(over="ignore"):
        width = (high - low) or abs(high) or 1.0
        first, last = np.clip((low - 0.02 * width, high + 0.02 * width), -_WIDEST, _WIDEST).tolist()
    edges = np.linspace(first, last, bins + 1)
    shares = np.stack([np.mean([_shares(histograms.buckets[n], edges) for n in group], axis=0) for group in groups], 1)
    shares = np.nan_to_num(shares, nan=0.0, posinf=0.0, neginf=0.0)  # bins that are too narrow for float64
    return np.array([histograms.steps[group[-1]] for group in groups], np.float64), edges, shares


def quantiles(buckets: Floats, shares: Sequence[float]) -> list[float]:
    """The quantiles of a histogram at the given shares, with elements spread evenly over each bucket."""
    return [_quantile(buckets, share) for share in shares]


def _quantile(buckets: Floats, share: float) -> float:
    below = np.concatenate([[0.0], np.cumsum(buckets[:, 2])])
    edges = np.concatenate([buckets[:1, 0], buckets[:, 1]])
    return float(np.interp(share * below[-1], below, edges))


def _shares(buckets: Floats, edges: Floats) -> Floats:
    below = np.concatenate([[0.0], np.cumsum(buckets[:, 2])])
    at = np.concatenate([buckets[:1, 0], buckets[:, 1]])
    if at[0] == at[-1]:  # all elements are equal
        return np.histogram(at[:1], edges)[0].astype(np.float64)
    return np.asarray(np.diff(np.interp(edges, at, below / below[-1])))
