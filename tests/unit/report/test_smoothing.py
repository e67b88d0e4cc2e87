"""Tests smoothed lines of the report."""

from __future__ import annotations

import numpy as np
import pytest

from tbx_callbacks.report.smoothing import smooth


def test_smooth_is_weighted_mean_of_past() -> None:
    values = np.array([1.0, 3.0, np.nan, 2.0])
    weights = 0.5 ** np.arange(2, -1, -1)
    expected = (weights * [1, 3, 2]).sum() / weights.sum()
    assert smooth(values, 1.0)[[0, 3]] == pytest.approx([1.0, expected])
    assert np.isnan(smooth(values, 1.0)[2])
