"""Tests the rule `nonfinite`."""

from __future__ import annotations

import numpy as np

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
