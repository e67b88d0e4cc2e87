"""Tests the rule `nonfinite`."""

from __future__ import annotations

import numpy as np
import pytest

from tbx_callbacks.runs.series import Series
from tests.helpers.rule_cases import N, findings_of, flat, series


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
    assert "checkpoint" in findings_of(scalars)["nonfinite"].advice
