"""Tests from which step curves part, on curves whose parting is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tbx_callbacks.comparison.curves import Parting, part
from tbx_callbacks.runs.series import Series


def curve(seed: int, *, number: int = 200, since: int = 10**9, gap: float = 0.0, sigma: float = 0.02) -> Series:
    """A falling loss with noise, raised by a gap from a step on."""
    steps = np.arange(1, number + 1)
    noise = np.random.default_rng(seed).normal(0, sigma, number)
    values = 0.2 + np.exp(-steps / 40) + noise + gap * (steps >= since)
    return Series(steps, values.astype(np.float32).astype(np.float64), np.zeros(number))


def series(*values: float, steps: list[int] | None = None) -> Series:
    return Series(np.array(steps or range(1, len(values) + 1)), np.array(values, float), np.zeros(len(values)))


@pytest.mark.parametrize("since", [20, 60, 120, 170])
@pytest.mark.parametrize("seed", range(5))
def test_part_single_runs_near_true_step(since: int, seed: int) -> None:
    found = part([curve(seed)], [curve(seed + 100, since=since, gap=0.15)])
    assert found.since is not None
    assert abs(found.since - since) <= 12


@pytest.mark.parametrize("seed", range(30))
def test_part_same_curve_with_noise_stays(seed: int) -> None:
    assert part([curve(seed)], [curve(seed + 100)]).since is None


@pytest.mark.parametrize("seed", range(10))
def test_part_groups_use_spread_between_seeds(seed: int) -> None:
    offsets = np.random.default_rng(seed).normal(0, 0.1, 10)
    runs = [
        Series(one.steps, one.values + offset, one.wall_times)
        for offset, one in zip(offsets, (curve(100 * seed + n) for n in range(10)), strict=True)
    ]
    assert part(runs[:5], runs[5:]).since is None
    moved = [Series(one.steps, one.values + 0.8 * (one.steps >= 100), one.wall_times) for one in runs[5:]]
    found = part(runs[:5], moved)
    assert found.since is not None
    assert abs(found.since - 100) <= 12


def test_part_equal_prefix_reported() -> None:
    one = curve(0)
    other = Series(one.steps, np.where(one.steps > 50, one.values + 0.3, one.values), one.wall_times)
    assert part([one], [other]) == Parting(200, 50, 51)
    assert part([one], [one]) == Parting(200, 200, None, is_equal=True)


def test_part_exact_schedule_parts_at_once() -> None:
    steps = np.arange(1, 101)
    one = Series(steps, 1e-4 * (1 - steps / 100), np.zeros(100))
    other = Series(steps, np.where(steps > 40, 5e-5, one.values), np.zeros(100))
    found = part([one], [other])
    assert found.equal_until == 40
    assert found.since is not None
    assert 41 <= found.since <= 75  # the lines cross at step 50


def test_part_nan_in_one_run_is_difference() -> None:
    one = curve(0)
    other = Series(one.steps, np.where(one.steps >= 77, math.nan, one.values), one.wall_times)
    assert part([one], [other]).since == 77
    assert part([other], [other]).is_equal


def test_part_uses_shared_steps_only() -> None:
    one, other = series(1, 2, 3, 4, steps=[1, 2, 3, 4]), series(2, 4, 9, steps=[2, 4, 6])
    assert part([one], [other]) == Parting(2, 4, None, is_equal=True)
    nothing = part([one], [series(1, 2, steps=[10, 20])])
    assert (nothing.points, nothing.is_compared) == (0, False)


def test_part_returning_curve_is_no_parting() -> None:
    one = curve(1)
    bump = Series(one.steps, curve(2).values + 0.4 * ((one.steps > 50) & (one.steps < 90)), one.wall_times)
    assert part([one], [bump]).since is None


def test_part_three_evaluations_compared() -> None:
    assert part([series(0.5, 0.6, 0.7)], [series(0.5, 0.6, 0.7001)]).since is None
    assert part([series(0.9, 0.8, 0.7)], [series(0.9, 0.95, 0.99)]).since == 2


def test_part_both_nan_at_end_parts_at_first() -> None:
    one, other = curve(0), curve(1)
    broken = [
        Series(series.steps, np.where(series.steps >= since, math.nan, series.values), series.wall_times)
        for series, since in ((one, 60), (other, 120))
    ]
    assert part([broken[0]], [broken[1]]).since == 60
