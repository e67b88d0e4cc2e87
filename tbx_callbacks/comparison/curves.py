"""Finds the step from which two curves, or two groups of curves, part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbx_callbacks.rules.series_stats import noise, smooth, width_for
from tbx_callbacks.runs.series import Floats, Series

_SIGMAS = 3.0
_LEAST_POINTS = 3
_LEAST_APART = 2  # points at the end; one point alone may be noise
_MEDIAN_ERROR = (math.pi / 2) ** 0.5  # the standard error of a median, relative to that of a mean
_ROUNDING = 1e-6  # relative; event files store float32


@dataclass(frozen=True)
class Parting:
    """How two groups of curves differ.

    Attributes:
        points: the number of steps that all curves have.
        equal_until: the last step up to which all values are equal; None if the first ones differ.
        is_equal: whether all values are equal.
        since: the first step from which the groups stay further apart than their noise; None if they do not.
    """

    points: int
    equal_until: int | None
    since: int | None
    is_equal: bool = False

    @property
    def is_compared(self) -> bool:
        """Whether there are enough shared steps."""
        return self.points >= _LEAST_POINTS


def part(first: Sequence[Series], second: Sequence[Series]) -> Parting:
    """Returns from which step on the curves of two groups part.

    The difference of the groups' means is smoothed by a running median. It counts where it exceeds three standard
    errors until the end. With several runs in a group, their spread is the error; with one, the noise of its curve
    between neighbouring points. A value that is not finite in one group only counts as a difference.
    """
    steps, one, other = _aligned(first, second)
    if len(steps) == 0:
        return Parting(0, None, None)
    is_equal = (one[:1] == other).all(axis=0) & (other[:1] == one).all(axis=0) | _all_nan(one, other)
    num_equal = len(steps) if is_equal.all() else int(np.argmin(is_equal))
    equal_until = int(steps[num_equal - 1]) if num_equal else None
    if num_equal == len(steps):
        return Parting(len(steps), int(steps[-1]), None, is_equal=True)
    if len(steps) < _LEAST_POINTS:
        return Parting(len(steps), equal_until, None)
    start = _first_apart(one, other)
    since = None if start is None else int(steps[max(start, num_equal)])
    return Parting(len(steps), equal_until, since)


def _all_nan(one: Floats, other: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isnan(one).all(axis=0) & np.isnan(other).all(axis=0))


def _aligned(first: Sequence[Series], second: Sequence[Series]) -> tuple[NDArray[np.int64], Floats, Floats]:
    """The steps that all curves have, `[T]`, and the values of both groups there, `[runs, T]`."""
    steps = first[0].steps
    for series in (*first[1:], *second):
        steps = np.intersect1d(steps, series.steps, assume_unique=True)
    tables = [
        np.stack([series.values[np.searchsorted(series.steps, steps)] for series in group]) for group in (first, second)
    ]
    return steps, tables[0], tables[1]


def _first_apart(one: Floats, other: Floats) -> int | None:
    """The index from which on the groups differ until the end; None if they do not."""
    is_known = np.isfinite(one).any(axis=0) | np.isfinite(other).any(axis=0)
    if not is_known.all():  # where both are NaN, nothing can be compared
        start = _first_apart(one[:, is_known], other[:, is_known]) if is_known.any() else None
        return None if start is None else int(np.flatnonzero(is_known)[start])
    is_broken = np.isfinite(one).all(axis=0) != np.isfinite(other).all(axis=0)
    is_finite = np.isfinite(one).all(axis=0) & np.isfinite(other).all(axis=0)
    apart = is_broken.copy()
    indices = np.flatnonzero(is_finite)
    if len(indices):
        apart[indices] = _exceeds_noise(one[:, indices], other[:, indices])
    last_together = np.flatnonzero(~apart)
    start = int(last_together[-1]) + 1 if len(last_together) else 0
    return start if len(apart) - start >= _LEAST_APART else None


def _exceeds_noise(one: Floats, other: Floats) -> NDArray[np.bool_]:
    difference = one.mean(axis=0) - other.mean(axis=0)
    number = len(difference)
    width = width_for(number, least=1, most=25)
    medians = smooth(difference, width)
    smoothed = np.pad(medians, (width // 2, number - len(medians) - width // 2), mode="edge")
    error = np.sqrt(_squared_error(one, width) + _squared_error(other, width))
    scale = np.maximum(np.abs(one).max(axis=0), np.abs(other).max(axis=0))
    exceeds = np.abs(smoothed) > np.maximum(_SIGMAS * error, _ROUNDING * scale)
    return np.asarray(exceeds & (np.sign(smoothed) == np.sign(smoothed[-1])))


def _squared_error(values: Floats, width: int) -> Floats:
    """The squared standard error of a group's smoothed mean, `[T]`."""
    runs, number = values.shape
    if runs == 1:
        error = noise(values[0]) if number > 2 else 0.0
        error *= _MEDIAN_ERROR if width > 1 else 1.0
        return np.full(number, error**2 / width if math.isfinite(error) else 0.0)
    variance = values.var(axis=0, ddof=1)
    floor = float(np.median(variance))  # a few runs may agree at some step by chance
    return np.asarray(np.maximum(variance, floor) / runs)
