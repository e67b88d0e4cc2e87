"""Statistics that a few odd points do not move."""

from __future__ import annotations

import numpy as np

from tbx_callbacks.series import Floats, Series


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
