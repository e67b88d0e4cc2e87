"""Tests that downsampled series keep spikes, envelopes and non-finite values."""

from __future__ import annotations

import numpy as np
import pytest

from tbx_callbacks.report.downsampling import heat_grid, histogram_grid, quantiles, thin
from tbx_callbacks.runs.series import Histograms, Series


def series(steps: list[int], values: list[float]) -> Series:
    return Series(np.array(steps), np.array(values, float), np.array(steps, float))


@pytest.mark.parametrize("index", [0, 1, 5_000, 77_777, 99_998, 99_999])
@pytest.mark.parametrize("spike", [50.0, -50.0, np.nan, np.inf])
def test_thin_long_series_keeps_spike(index: int, spike: float) -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[index] = spike
    kept = thin(values, 1000)
    assert len(kept) <= 1000
    assert (np.diff(kept) > 0).all()
    assert index in kept
    assert {0, 99_999} <= set(kept.tolist())


def test_thin_noisy_series_keeps_envelope() -> None:
    values = np.sin(np.arange(30_000) / 100) + np.random.default_rng(1).normal(0, 0.1, 30_000)
    kept = thin(values, 900)
    for part in np.array_split(np.arange(30_000), 100):
        near = values[kept[(kept > part[0] - 102) & (kept < part[-1] + 102)]]  # one stretch to each side
        assert near.min() <= values[part].min() <= values[part].max() <= near.max()


def test_thin_short_series_whole_few_points_refused() -> None:
    assert thin(np.arange(7.0), 7).tolist() == list(range(7))
    assert thin(np.full(100, np.nan), 20).size <= 20
    with pytest.raises(ValueError, match="most must be at least 5, got 4"):
        thin(np.arange(9.0), 4)


def test_heat_keeps_largest_and_nonfinite() -> None:
    long = np.ones(1000)
    long[503], long[700] = 9.0, np.inf
    steps, values = heat_grid([series(list(range(1, 1001)), long.tolist()), series([10, 20], [2.0, 3.0])], most=100)
    assert values.shape == (2, 100)
    assert np.nanmax(values[0]) == 9.0
    assert steps[np.nanargmax(values[0])] <= 504 < steps[np.nanargmax(values[0]) + 1]
    assert np.isnan(values[0]).sum() == 1
    assert np.isneginf(values[1]).sum() == 98  # no value


def test_spread_histograms_keep_mass_and_place() -> None:
    edges = np.linspace(-1, 1, 41)
    counts = np.exp(-(((edges[:-1] + edges[1:]) * 2) ** 2))
    small = np.stack([edges[:-1], edges[1:], counts], 1)
    wide = np.stack([3 * edges[:-1], 3 * edges[1:], 7 * counts], 1)
    empty = np.empty((0, 3))
    histograms = Histograms(np.array([1, 2, 3, 4]), (small, wide, empty, wide), np.arange(4.0))
    steps, bins, shares = histogram_grid(histograms, columns=60, bins=50)
    assert steps.tolist() == [1, 2, 4]
    assert shares.shape == (50, 3)
    assert shares.sum(0) == pytest.approx([1, 1, 1], abs=0.01)
    centres = (bins[:-1] + bins[1:]) / 2
    assert np.sqrt((shares * centres[:, None] ** 2).sum(0)) == pytest.approx([0.177, 0.53, 0.53], rel=0.03)
    assert quantiles(small, (0.5,)) == pytest.approx([0.0], abs=1e-9)


def test_spread_histogram_of_equal_values_keeps_mass() -> None:
    one = np.array([[2.0, 2.0, 5.0]])
    _, _, shares = histogram_grid(Histograms(np.array([1]), (one,), np.zeros(1)), columns=10)
    assert shares.sum() == 1
    assert histogram_grid(Histograms(np.array([1]), (np.empty((0, 3)),), np.zeros(1)), columns=10)[0].size == 0
