"""Tests calibration against naive loops and scipy's minimiser, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from tbx_callbacks._stats.calibration import TEMPERATURES, best_temperature, log_loss, reliability


def drawn(rows: int, classes: int, sharpness: float, seed: int = 0) -> tuple[Any, Any]:
    """Logits of `sharpness` times the true ones, and classes drawn from the true probabilities."""
    made = np.random.default_rng(seed)
    true = made.normal(size=(rows, classes)) * 1.5
    targets = np.array([made.choice(classes, p=row) for row in softmax(true, -1)])
    return true * sharpness, targets


def naive_error(scores: Any, targets: Any, bins: int = 15) -> float:
    """Guo et al. 2017, equation 3, row by row."""
    total = 0.0
    rows = [
        (float(softmax(row).max()), int(row.argmax()) == target) for row, target in zip(scores, targets, strict=True)
    ]
    for m in range(1, bins + 1):
        inside = [row for row in rows if (m - 1) / bins < row[0] <= m / bins]
        if inside:
            gap = np.mean([right for _, right in inside]) - np.mean([confidence for confidence, _ in inside])
            total += len(inside) / len(rows) * abs(gap)
    return total


@pytest.mark.parametrize("classes", [2, 3, 40])
@pytest.mark.parametrize("sharpness", [0.2, 1.0, 4.0])
def test_reliability_error_equals_naive_loop(classes: int, sharpness: float) -> None:
    scores, targets = drawn(500, classes, sharpness)
    found = reliability(scores, targets)
    assert found.error == pytest.approx(naive_error(scores, targets), abs=1e-12)
    assert found.counts.sum() == 500
    assert np.isnan(found.accuracy[found.counts == 0]).all()


def test_reliability_confidence_on_edge_in_lower_bin() -> None:
    scores = np.log(np.array([[0.5, 0.5], [1.0, 1e-300]]))
    assert reliability(scores, np.array([0, 0]), bins=2).counts.tolist() == [1, 1]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 3.0, 30.0])
def test_best_temperature_equals_scipy_minimum(classes: int, sharpness: float) -> None:
    scores, targets = drawn(800, classes, sharpness)

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(scores / math.exp(log_temperature), -1)[np.arange(800), targets].mean())

    bounds = tuple(map(math.log, TEMPERATURES))
    expected = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    found = best_temperature(scores, targets)
    assert found == pytest.approx(math.exp(expected.x), rel=1e-5)
    assert found == pytest.approx(sharpness, rel=0.3)
    assert log_loss(scores / found, targets) == pytest.approx(expected.fun, abs=1e-12)


def test_best_temperature_huge_logits_no_overflow() -> None:
    scores, targets = drawn(200, 3, 1.0)
    assert best_temperature(scores * 40 + 1e6, targets) == pytest.approx(
        40 * best_temperature(scores, targets), rel=1e-6
    )


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        (np.eye(2)[[0, 1, 1]] * 9, [0, 1, 1]),  # all right: T goes to 0
        (np.eye(2)[[0, 1, 1]] * 9, [1, 0, 0]),  # all wrong: T goes to infinity
        (np.zeros((4, 2)), [0, 1, 0, 1]),  # no information
        (np.array([[0.0, -np.inf], [1.0, 0.0]]), [1, 0]),  # a target with probability 0
    ],
)
def test_best_temperature_without_minimum_is_none(scores: Any, targets: list[int]) -> None:
    assert best_temperature(scores, np.array(targets)) is None


def test_best_temperature_other_class_impossible() -> None:
    scores, targets = np.array([[2.0, 0.0, -np.inf], [2.0, 0.0, 1.0], [0.0, 1.0, -np.inf]]), np.array([0, 0, 0])
    found = best_temperature(scores, targets)
    assert found is not None
    loss = [log_loss(scores / temperature, targets) for temperature in (found * 0.99, found, found * 1.01)]
    assert loss[1] == min(loss)


def test_log_loss_impossible_target_is_infinite() -> None:
    assert log_loss(np.array([[0.0, -np.inf]]), np.array([1])) == math.inf
