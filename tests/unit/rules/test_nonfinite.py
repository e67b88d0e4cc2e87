"""Tests the rule `nonfinite`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tbx_callbacks.runs.series import Series
from tests.helpers.rule_cases import FALLING, N, findings_of, flat, series


def test_nonfinite_first_layer_named_when_known() -> None:
    text = "step 400: gradients hold NaN or Inf in 2 of 6 groups; backward reached bert.encoder.layer.1 first"
    scalars = {
        "nonfinite/found": series([*flat(0, 39), 1, 1]),
        "nonfinite/losses": series([*flat(0, 40), 8]),
        "nonfinite/gradients/total": series([*flat(0, 39), 7, 7]),
        "nonfinite/gradients/bert.encoder.layer.1": Series(np.array([400]), np.array([7.0]), np.zeros(1)),
        "nonfinite/weights/total": series([*flat(0, 39), 5, 5]),
    }
    finding = findings_of(scalars, {"nonfinite/first_bad": (400, text)})["nonfinite"]
    assert finding.severity == "error"
    assert finding.steps == (400,)
    assert finding.tags[0] == "nonfinite/gradients/bert.encoder.layer.1"
    assert "first in bert.encoder.layer.1" in finding.means
    assert "first in bert.encoder.layer.1" in findings_of(scalars)["nonfinite"].means  # from the counts alone
    scalars["nonfinite/losses"] = series([*flat(0, 39), 3, 8])
    finding = findings_of(scalars, {"nonfinite/first_bad": (400, text)})["nonfinite"]
    assert "layer" not in finding.means
    assert "every: 1" in finding.advice


def test_nonfinite_steps_skipped_by_fp16_note() -> None:
    norms = np.ones(N)
    norms[:4] = np.inf
    assert findings_of({"train/grad_norm": norms})["nonfinite"].severity == "note"
    assert findings_of({"train/grad_norm": norms[::-1]})["nonfinite"].severity == "error"
    counts = {"nonfinite/gradients/total": [3, *flat(0)], "nonfinite/weights/total": flat(0, N + 1)}
    assert findings_of(counts)["nonfinite"].severity == "note"
    assert findings_of({**counts, "nonfinite/weights/total": [3, *flat(0)]})["nonfinite"].severity == "error"


@pytest.mark.parametrize(("number", "began"), [(4, 397), (1, 400), (10, 391)])
def test_nonfinite_losses_counted_tell_first_step(number: int, began: int) -> None:
    scalars = {"nonfinite/losses": [*flat(0, 39), number, *flat(10, 5)]}  # ten losses a point, one a step
    finding = findings_of(scalars)["nonfinite"]
    assert finding.steps[0] == began
    assert f"since step {began}" in finding.means


def test_nonfinite_accumulated_losses_tell_first_step() -> None:
    scalars = {"nonfinite/losses": [*flat(0, 39), 12, *flat(40, 5)]}  # four batches a step
    assert findings_of(scalars)["nonfinite"].steps[0] == 398


def test_nonfinite_between_points_names_interval() -> None:
    finding = findings_of({"train/loss": np.append(flat(0.5, 39), np.nan)})["nonfinite"]
    assert finding.steps == (400,)
    assert "between steps 391 and 400" in finding.means
    assert (
        "since step 400" in findings_of({"train/loss": series([*flat(0.5, 399), np.nan], every=1)})["nonfinite"].means
    )


@pytest.mark.parametrize(("weights", "words"), [(0.0, "The weights are finite so far."), (3.0, "into more weights.")])
def test_nonfinite_since_first_batch_looks_at_it(weights: float, words: str) -> None:
    scalars = {"nonfinite/losses": [1.0, 1.0], "nonfinite/weights/total": [weights] * 2}
    found = findings_of({**scalars, "wiring/first_loss_not_finite": [1.0]})["nonfinite"]
    assert "NaN or Inf since batch 1" in found.means
    assert words in found.means
    assert found.advice.startswith("Look at the first batch")
    assert ("checkpoint" in findings_of(scalars)["nonfinite"].advice) == (weights > 0)


def bad_at(*points: int) -> np.ndarray[Any, Any]:
    values = FALLING.copy()
    values[list(points)] = np.nan
    return values


@pytest.mark.parametrize(
    ("points", "weights", "severity", "words"),
    [
        ((20,), flat(0), "note", "at 1 point of 60, first at step 21. The weights stayed finite"),
        ((20, 21, 40), flat(0), "note", "at 3 points of 60"),
        (range(10, 30), flat(0), "warning", "at 20 points of 60"),
        ((20,), None, "warning", "Later losses are finite"),
        ((59,), None, "error", "If an update used it"),
        ((58, 59), None, "error", "since step 59"),
        ((59,), flat(0), "note", "The weights stayed finite"),
        ((57, 58, 59), flat(0), "error", "The weights are finite so far"),
        ((20,), [*flat(0, 30), *flat(7, 30)], "error", "training after this step is lost"),
        (range(20, 60), [*flat(0, 20), *flat(7, 40)], "error", "training after this step is lost"),
    ],
)
def test_nonfinite_loss_judged_by_what_follows(points: Any, weights: Any, severity: str, words: str) -> None:
    scalars = {"train/loss": series(bad_at(*points), every=1)}
    if weights is not None:
        scalars["nonfinite/weights/total"] = series(weights, every=1)
        scalars["nonfinite/losses"] = series(np.isnan(bad_at(*points)), every=1)
    found = findings_of(scalars)["nonfinite"]
    assert (found.severity, words in found.means) == (severity, True), found.means


def test_nonfinite_loss_before_weights_are_counted_error() -> None:
    scalars = {"train/loss": series(bad_at(59), every=1), "nonfinite/weights/total": series(flat(0, 5), every=10)}
    assert findings_of(scalars)["nonfinite"].severity == "error"


@pytest.mark.parametrize(
    ("evaluations", "severity"), [((0.6, np.nan, 0.4), "warning"), ((0.6, np.inf), "error"), ((np.nan,), "error")]
)
@pytest.mark.parametrize("training", [{}, {"train/loss": FALLING, "nonfinite/weights/total": flat(0)}])
def test_eval_loss_not_finite_is_no_nonfinite_training(evaluations: Any, severity: str, training: Any) -> None:
    found = findings_of({**training, "eval/loss": series(evaluations, every=100)})
    assert "nonfinite" not in found
    assert found["eval_loss_not_finite"].severity == severity
    assert ("The training shows no such number" in found["eval_loss_not_finite"].means) == bool(training)


def test_eval_loss_after_lost_training_no_finding() -> None:
    scalars = {"train/loss": bad_at(*range(20, 60)), "eval/loss": series([0.6, np.nan, np.nan], every=200)}
    assert {"nonfinite"} <= findings_of(scalars).keys() <= {"nonfinite"}


def test_eval_loss_beside_passed_nan_is_not_alone() -> None:
    scalars = {"train/loss": bad_at(20), "nonfinite/weights/total": flat(0), "eval/loss": series([0.6, np.nan, 0.4])}
    found = findings_of(scalars)["eval_loss_not_finite"]
    assert "The training had such numbers too, and went on." in found.means
