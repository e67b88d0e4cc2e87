"""Turns the values of events into arrays; a value that cannot be right raises, before anything is allocated for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tbx_callbacks._text import short
from tbx_callbacks.runs.series import Floats

_MAX_REPEATED = 1 << 16  # elements of a tensor that repeats one value


def tensor_array(tensor: Any, board: Any) -> Any:
    """Returns the array of a TensorProto.

    Raises:
        ValueError: its shape does not fit its content, or its type is none that TensorBoard reads.
    """
    sizes = [dimension.size for dimension in tensor.tensor_shape.dim]
    elements = math.prod(sizes)
    if min(sizes, default=0) < 0 or elements > max(tensor.ByteSize(), _MAX_REPEATED):
        raise ValueError("its tensor has a shape that its content does not fill")
    try:
        return board.make_ndarray(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError("its tensor has a shape or a type that its content does not fit") from error


def number(array: Any) -> float:
    """Returns the only element.

    Raises:
        ValueError: there is not exactly one real number.
    """
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ValueError("a scalar must be one real number")
    return float(array.reshape(()))


def numbers(array: Any, rows: int | None, columns: int | None) -> Floats:
    """Returns a table as float64, `[rows, columns]`.

    Raises:
        ValueError: it has another shape, or elements that are no real numbers.
    """
    if array.ndim != 2 or array.dtype.kind not in "biuf" or rows not in (None, len(array)):
        raise ValueError("a table of numbers has another shape or another type")
    if columns not in (None, array.shape[1]):
        raise ValueError("a table of numbers has another shape or another type")
    table: Floats = array.astype(np.float64)
    return table


def texts(array: Any) -> list[bytes]:
    """Returns the elements, flat.

    Raises:
        ValueError: an element is no string.
    """
    parts = array.ravel().tolist()
    if not all(isinstance(part, bytes) for part in parts):
        raise ValueError("a text or an image must hold strings")
    return parts  # type: ignore[no-any-return]


def checked_buckets(buckets: Floats) -> Floats:
    """Returns `[K, 3]` (left edge, right edge, count) unchanged.

    Raises:
        ValueError: an edge or a count is not finite, a count is negative, or the edges are not sorted.
    """
    edges, counts = np.concatenate([buckets[:1, 0], buckets[:, 1]]), buckets[:, 2]
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(buckets).all() and np.isfinite(counts.sum())
    if not is_finite or (counts < 0).any():
        raise ValueError("a histogram must have finite edges, and counts of at least 0")
    if (edges[1:] < edges[:-1]).any():
        raise ValueError("a histogram must have sorted edges")
    return buckets


def histogram_buckets(histogram: Any) -> Floats:
    """Returns `[K, 3]` of a HistogramProto; see `drawn_buckets`."""
    counts, limits = np.array(histogram.bucket, np.float64), np.array(histogram.bucket_limit, np.float64)
    return drawn_buckets(counts, limits, histogram.min, histogram.max)


def drawn_buckets(counts: Floats, limits: Floats, smallest: float, largest: float) -> Floats:
    """Returns `[K, 3]` as TensorBoard draws it: without empty outer buckets, which reach +-1.8e308 in old files.

    Args:
        counts: `[N]`.
        limits: the right edges, `[N]` or more.
        smallest: the smallest value that was counted.
        largest: the largest value that was counted.

    Raises:
        ValueError: as `checked_buckets`; or there are fewer limits than buckets.
    """
    if len(limits) < len(counts):
        raise ValueError("a histogram must have a limit for each bucket")
    nonempty = np.flatnonzero(counts)
    if not nonempty.size:
        return np.empty((0, 3))
    first, last = nonempty[0], nonempty[-1]
    inner = limits[first:last].tolist()
    # Writers round: the smallest value may lie a little above the limit of its bucket.
    low, high = min([smallest, *inner[:1]]), max([largest, *inner[-1:]])
    return checked_buckets(np.stack([[low, *inner], [*inner, high], counts[first : last + 1]], axis=1))


def named(tag: str, step: int) -> str:
    """A value's name in a sentence."""
    return f"the value of {short(tag)} at step {step}"
