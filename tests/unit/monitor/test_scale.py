"""Tests scales of plots and heat maps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tbx_callbacks.monitor.scale import scale_of


def test_scale_of_similar_values_linear() -> None:
    scale = scale_of(np.array([1.0, 2.0, math.nan, 5.0]))
    assert scale is not None
    assert (scale.low, scale.high, scale.is_log) == (1.0, 5.0, False)
    assert scale(np.array([1.0, 3.0, 5.0])).tolist() == [0.0, 0.5, 1.0]
    assert np.isnan(scale(np.array([math.nan, math.inf, -math.inf]))).all()


def test_scale_of_wide_positive_values_logarithmic() -> None:
    scale = scale_of(np.array([0.01, 1.0, 100.0]))
    assert scale is not None
    assert scale.is_log
    np.testing.assert_allclose(scale(np.array([0.01, 1.0, 100.0])), [0.0, 0.5, 1.0])
    with_zero = np.array([0.0, 0.01, 100.0])
    assert not scale_of(with_zero).is_log  # type: ignore[union-attr]
    apart = scale_of(with_zero, has_zeros_apart=True)
    assert apart is not None
    assert apart.is_log
    assert math.isnan(apart(np.array([0.0]))[0])


@pytest.mark.parametrize("value", [0.0, 1e-45, 3e38, -1.7e308, 1.7e308])
def test_scale_of_one_value_in_middle(value: float) -> None:
    scale = scale_of(np.array([value]))
    assert scale is not None
    assert scale(np.array([value])).tolist() == [0.5]


def test_scale_without_finite_value_none() -> None:
    assert scale_of(np.array([math.nan, math.inf])) is None
    assert scale_of(np.empty(0)) is None


def test_scale_of_extreme_values_stays_finite() -> None:
    scale = scale_of(np.array([-1.7e308, 1.7e308]))
    assert scale is not None
    assert scale(np.array([-1.7e308, 0.0, 1.7e308])).tolist() == [0.0, 0.5, 1.0]
