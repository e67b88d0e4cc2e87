"""Smooths lines of the report."""

from __future__ import annotations

import numpy as np

from tbx_callbacks.runs.series import Floats


def smooth(values: Floats, half_life: float) -> Floats:
    """The exponential mean of `values`, `[N]`, without bias at the start.

    The weight of a value halves after `half_life` points. Values that are not finite are unchanged, and are ignored in
    the mean.
    """
    decay = 0.5 ** (1 / max(half_life, 1e-9))
    total = weight = 0.0
    means = np.empty(len(values))
    for index, value in enumerate(values.tolist()):
        if value - value == 0:
            total, weight = total * decay + value, weight * decay + 1
            means[index] = total / weight
        else:
            means[index] = value
    return means
