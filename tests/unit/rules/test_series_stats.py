"""Tests statistics of series that rules share."""

from __future__ import annotations

import numpy as np
import pytest

from tbx_callbacks.rules.series_stats import depth, ends, finite, median, noise, outermost, smooth, stack, width_for
from tests.helpers.rule_cases import series


def test_stack_of_parameters_gives_layer_norms() -> None:
    parameters = {
        f"grad_norm/encoder.layer.{n}.{part}.weight": series([3.0 + part]) for n in (10, 2) for part in (0, 1)
    }
    layers = stack(outermost(parameters))
    assert list(layers) == ["encoder.layer.2", "encoder.layer.10"]
    assert layers["encoder.layer.2"].tolist() == [5.0]
    with_layer = {**parameters, "grad_norm/encoder.layer.2": series([7.0])}
    assert "encoder.layer.2.0.weight" not in outermost(with_layer)
    assert "encoder.layer.10.0.weight" in outermost(with_layer)


def test_finite_drops_nan_and_inf() -> None:
    kept = finite(series([1.0, np.nan, 2.0, np.inf]))
    assert (kept.steps.tolist(), kept.values.tolist()) == ([10, 30], [1.0, 2.0])


def test_noise_of_trend_is_not_counted() -> None:
    dice = np.random.default_rng(0).normal(0, 0.1, 5000)
    assert noise(dice + np.linspace(0, 50, 5000)) == pytest.approx(0.1, rel=0.1)


def test_ends_and_smooth_are_medians() -> None:
    values = np.array([1.0, 9.0, 2.0, 5.0, 5.0, 7.0, 8.0, 0.0])
    assert ends(values) == (2.0, 7.0)
    assert smooth(values, 3).tolist() == [np.median(values[n : n + 3]) for n in range(6)]
    assert smooth(values[:2], 3).size == 0
    assert np.isnan(median(values[:0]))


def test_width_for_any_length_bounded() -> None:
    assert [width_for(number) for number in (0, 70, 10_000)] == [5, 7, 100]


def test_depth_of_layer_name_prefix_and_index() -> None:
    assert depth("bert.encoder.layer.3.output") == ("bert.encoder.layer", 3)
    assert depth("bert.pooler") is None
