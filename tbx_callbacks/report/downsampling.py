"""Long series made short without losing what stands out, and smoothed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tbx_callbacks.runs.series import Floats, Histograms, Series

MOST_POINTS = 1200  # of a line; a screen has no more columns
Places = NDArray[np.intp]


def thin(values: Floats, most: int = MOST_POINTS) -> Places:
    """Which points to draw of `values`, `[N]`: all, or at most `most` of them.

    Of each stretch of equal length the smallest and the largest value are kept, so that every spike is seen at its
    height and step, and one that is not finite, so that every gap is seen; and of the whole the first and the last.
    """
    if most < 5:
        raise ValueError(f"most must be at least 5, got {most}")
    if len(values) <= most:
        return np.arange(len(values))
    number = (most - 2) // 3
    edges = np.linspace(0, len(values), number + 1).astype(np.intp)
    kept = {0, len(values) - 1}
    for start, end in pairwise(edges.tolist()):
        kept.update(start + place for place in _standing_out(values[start:end]))
    return np.array(sorted(kept), np.intp)


def _standing_out(values: Floats) -> list[int]:
    finite = np.isfinite(values)
    if finite.all():
        return [int(values.argmin()), int(values.argmax())]
    gap = int(np.argmin(finite))
    if not finite.any():
        return [gap]
    return [int(np.where(finite, values, np.inf).argmin()), int(np.where(finite, values, -np.inf).argmax()), gap]


def smoothed(values: Floats, half_life: float) -> Floats:
    """Exponential mean of `values`, `[N]`, a value counts half after `half_life` points; unbiased at the start.

    Values that are not finite stay what they are and count for nothing.
    """
    decay = 0.5 ** (1 / max(half_life, 1e-9))
    total = weight = 0.0
    made = np.empty(len(values))
    for place, value in enumerate(values.tolist()):
        if value - value == 0:
            total, weight = total * decay + value, weight * decay + 1
            made[place] = total / weight
        else:
            made[place] = value
    return made


def heat(rows: Sequence[Series], most: int = 240) -> tuple[Floats, Floats]:
    """Series as rows over common columns: the columns' steps, `[C]`, and values, `[R, C]`.

    A column is a step that any row has, or a stretch of them; of a stretch the largest value counts. It is NaN where
    any value is not finite, and -inf where a row has no value.
    """
    steps = np.unique(np.concatenate([row.steps for row in rows]))
    starts = np.unique(np.linspace(0, len(steps), min(most, len(steps)), endpoint=False).astype(np.intp))
    columns = steps[starts]
    values = np.full((len(rows), len(columns)), -np.inf)
    for place, row in enumerate(rows):
        at = np.searchsorted(columns, row.steps, side="right") - 1
        finite = np.isfinite(row.values)
        np.maximum.at(values[place], at[finite], row.values[finite])
        values[place, at[~finite]] = np.nan
    return columns.astype(np.float64), values


def spread(histograms: Histograms, *, columns: int, bins: int = 64) -> tuple[Floats, Floats, Floats]:
    """Histograms over common bins: the columns' steps, `[C]`, the bins' edges, `[bins + 1]`, and shares, `[bins, C]`.

    Of a stretch of steps the mean is taken. The bins span what holds all but a thousandth at either end.
    """
    filled = [place for place, one in enumerate(histograms.buckets) if len(one) and one[:, 2].sum() > 0]
    if not filled:
        return np.empty(0), np.linspace(0, 1, bins + 1), np.empty((bins, 0))
    groups = np.array_split(np.array(filled), min(columns, len(filled)))
    low = min(_quantile(histograms.buckets[place], 0.001) for place in filled)
    high = max(_quantile(histograms.buckets[place], 0.999) for place in filled)
    width = (high - low) or abs(high) or 1.0
    edges = np.linspace(low - 0.02 * width, high + 0.02 * width, bins + 1)
    shares = np.stack([np.mean([_shares(histograms.buckets[n], edges) for n in group], axis=0) for group in groups], 1)
    return np.array([histograms.steps[group[-1]] for group in groups], np.float64), edges, shares


def quantiles(buckets: Floats, shares: Sequence[float]) -> list[float]:
    """Where the given shares of a histogram's elements lie below; elements spread evenly over a bucket."""
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
