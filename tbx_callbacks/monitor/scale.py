"""Maps values to the range 0 to 1, linearly or by their logarithms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tbx_callbacks.report.layer_families import LOG_RATIO
from tbx_callbacks.runs.series import Floats

_WIDEST = 1e300  # the difference of two values must be a number, too


@dataclass(frozen=True)
class Scale:
    """A scale from the smallest to the largest value that it shows."""

    low: float
    high: float
    is_log: bool

    def __call__(self, values: Floats) -> Floats:
        """Returns the positions of values, 0 to 1; NaN for a value that it cannot show. A single value is at 0.5."""
        with np.errstate(all="ignore"):
            shown = np.clip(values, -_WIDEST, _WIDEST)
            low, high = self.low, self.high
            if self.is_log:
                shown, low, high = np.where(values > 0, np.log10(values), np.nan), np.log10(low), np.log10(high)
            share = (shown - low) / (high - low) if high > low else np.where(np.isnan(shown), np.nan, 0.5)
        return np.where(np.isfinite(values), np.clip(share, 0.0, 1.0), np.nan)


def scale_of(values: Floats, *, has_zeros_apart: bool = False) -> Scale | None:
    """Returns a scale for the finite values; None without any.

    It is logarithmic if the values span a large ratio.

    Args:
        values: the values.
        has_zeros_apart: whether the drawing shows zeros in another way, so that they need no place on the scale.
    """
    finite = np.clip(values[np.isfinite(values)], -_WIDEST, _WIDEST)
    if not finite.size:
        return None
    positive = finite[finite > 0]
    covers = positive.size == finite.size or (has_zeros_apart and positive.size == np.count_nonzero(finite))
    if covers and positive.size and positive.max() / LOG_RATIO > positive.min():
        return Scale(float(positive.min()), float(positive.max()), True)
    return Scale(float(finite.min()), float(finite.max()), False)
