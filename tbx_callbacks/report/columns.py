"""Chooses the types of the columns that a page carries, so that numbers keep their value with few bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

EXACT = 2**53
"""JavaScript's numbers are exact up to this size."""


def step_column(steps: Any) -> Any:
    """The steps as int32 if they fit, or else as float64, which is exact up to EXACT."""
    steps = np.asarray(steps)
    limits = np.iinfo(np.int32)
    fits = not steps.size or (steps.min() >= limits.min and steps.max() <= limits.max)
    return steps.astype(np.int32 if fits else np.float64)


def value_column(values: Any) -> Any:
    """The values as float32 if their size allows it, or else as float64. Infinite values become NaN, which is a gap."""
    values = np.where(np.isfinite(values), values, np.nan)
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    limits = np.finfo(np.float32)
    fits = not sizes.size or (sizes.min() >= limits.tiny and sizes.max() <= limits.max)
    return values.astype(np.float32 if fits else np.float64)
