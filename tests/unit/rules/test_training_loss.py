"""Tests how the training loss of a run is found and measured."""

from __future__ import annotations

import numpy as np
import pytest

from tbx_callbacks.rules.training_loss import (
    exploded_from,
    fall_of,
    first_loss,
    has_learned,
    not_minimised,
    points_since_peak,
    training_loss,
)
from tests.helpers.rule_cases import FALLING, N, findings_of, flat, run_of, series

DICE = np.random.default_rng(0)
LIKELIHOOD = 3 * np.exp(-np.arange(N) / 12) - 3 + 0.02 * DICE.standard_normal(N)


def test_fall_positive_loss_scale_is_start() -> None:
    fall = fall_of(FALLING)
    assert fall.scale == fall.start == pytest.approx(np.median(FALLING[:6]))
    assert (fall.start - fall.low) / fall.scale == pytest.approx(1 - np.median(FALLING[-6:]) / np.median(FALLING[:6]))
    assert not fall.is_signed


def test_fall_negative_loss_scale_is_fall() -> None:
    fall = fall_of(LIKELIHOOD)
    assert fall.is_signed
    assert fall.scale == pytest.approx(np.median(LIKELIHOOD[:6]) - fall.low)
    assert fall.start - fall.low == fall.scale


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_fall_around_zero_has_no_scale(memory: float) -> None:
    for _ in range(50):
        values = np.zeros(N)
        for index in range(1, N):
            values[index] = memory * values[index - 1] + DICE.standard_normal()
        assert fall_of(values).scale == 0


def test_fall_constant_zero_has_no_scale() -> None:
    assert fall_of(flat(0.0)).scale == 0


@pytest.mark.parametrize(
    ("tag", "word"),
    [
        ("train/reward", "policy gradient"),
        ("train/frac_reward_zero_std", "policy gradient"),
        ("train/objective/kl", "policy gradient"),
        ("rollout/ep_rew_mean", "policy gradient"),
        ("train/d_loss", "adversaries"),
        ("loss/discriminator", "adversaries"),
        ("discriminator_loss", "adversaries"),
    ],
)
def test_training_loss_not_minimised_is_left_out(tag: str, word: str) -> None:
    run = run_of({"train/loss": FALLING, tag: flat(0.5)})
    assert training_loss(run) is None
    assert word in str(not_minimised(run))
    assert not has_learned(run)


def test_training_loss_finite_points_only() -> None:
    entry = training_loss(run_of({"train_loss": [np.nan, 1.0, np.inf, 0.5]}))
    assert entry is not None
    assert entry[1].values.tolist() == [1.0, 0.5]


def test_points_since_peak_counts_after_warm_up() -> None:
    rates = [*np.linspace(0, 1, 11), *flat(1.0, 9)]
    assert points_since_peak(run_of({"train/learning_rate": rates}), series(flat(1.0, 20))) == 10
    assert points_since_peak(run_of({}), series(flat(1.0, 20))) == 20


FIRST = {"wiring/first_loss": [1.0], "wiring/first_loss_unusual": [0.8]}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (FIRST, 1.25),  # equal probabilities: 1 / 0.8
        ({**FIRST, "wiring/first_loss_unusual": [2.0]}, 1.0),
        ({**FIRST, "wiring/gradients_summed": [4.0]}, None),  # the logged loss is a sum
        ({"wiring/first_loss": [1.0]}, None),
        ({}, None),
    ],
)
def test_first_loss_is_at_least_chance(others: dict[str, list[float]], expected: float | None) -> None:
    assert first_loss(run_of({"train/loss": [3.0], **others})) == expected


@pytest.mark.parametrize("known", [True, False])
def test_rate_too_high_before_first_point(known: bool) -> None:
    """The first point is the mean of ten steps, in which the loss has exploded already."""
    losses = [40.0, 9.0, 3.0, 1.3, 1.2, 1.25, 1.2, 1.22, 1.21, 1.2, 1.24, 1.2]
    found = findings_of({"train/loss": losses, "lr/AdamW/pg0": flat(1.0, 12), **(FIRST if known else {})})
    assert ("learning_rate_too_high" in found) == known


def _blown_up(later: np.ndarray) -> np.ndarray:
    return np.append([0.69, 0.66], later)


NOISY = np.random.default_rng(1).lognormal(0, 0.8, 98)
EXPLODED = {
    "stays": _blown_up(30 * NOISY),
    "stays 10 orders above": _blown_up(1e10 * NOISY),
    "creeps back": _blown_up(12 * 0.9 ** np.arange(98) + 0.7),
    "right by chance at times": _blown_up(np.where(np.arange(98) % 12 == 3, 0.0, 30 * NOISY)),
    "cliff": _blown_up(7 + 0.3 * np.random.default_rng(2).standard_normal(98)),
}
NO_EXPLOSION = {
    "falls": FALLING,
    "noise of batches": NOISY,
    "learns the first class first": np.append(np.geomspace(0.69, 0.01, 10), np.full(50, 3.0)),
    "first loss above the others": np.append([90.0, 0.66], NOISY),
    "a single spike": _blown_up(np.append([40.0], 0.5 + 0.05 * NOISY)),
    "few points": _blown_up(30 * NOISY)[:12],
    "negative": -_blown_up(30 * NOISY),
}


@pytest.mark.parametrize("case", EXPLODED)
def test_loss_that_explodes_at_once_is_error(case: str) -> None:
    assert exploded_from(EXPLODED[case]) == 0.69
    rates = flat(1e-2, 100)
    alone = findings_of({"train/loss": EXPLODED[case]})
    with_rate = findings_of({"train/loss": EXPLODED[case], "train/learning_rate": rates})
    assert alone["divergence"].severity == ("warning" if case == "creeps back" else "error")
    assert with_rate["learning_rate_too_high"].severity == "error"
    assert {"plateau", "underfitting"}.isdisjoint({*alone, *with_rate})  # they would call the peak the start


@pytest.mark.parametrize("case", NO_EXPLOSION)
def test_loss_that_does_not_explode_not_called_so(case: str) -> None:
    assert exploded_from(NO_EXPLOSION[case]) is None


def test_loss_below_its_start_after_explosion_recovered() -> None:
    losses = _blown_up(np.append(12 * 0.8 ** np.arange(10), np.geomspace(0.6, 0.05, 88)))
    assert "divergence" not in findings_of({"train/loss": losses})


def test_loss_worse_than_chance_at_end_is_error() -> None:
    """Every tenth step is logged, so that the first point is of the exploded loss."""
    scalars = {
        "train/loss": 4 * NOISY[:20],
        "train/learning_rate": flat(1.0, 20),
        "wiring/first_loss": series([0.7], every=1),
        "wiring/first_loss_unusual": series([1.0], every=1),
    }
    assert findings_of(scalars)["learning_rate_too_high"].severity == "error"
