"""Tests the diagnosis of a whole run."""

from __future__ import annotations

import numpy as np
import pytest

from tbx_callbacks.rules import RULES, SEVERITIES, diagnose
from tests.helpers.rule_cases import CASES, FALLING, HEALTHY, findings_of, flat, run_of, series


def test_diagnose_healthy_run_no_finding() -> None:
    assert findings_of(HEALTHY) == {}


@pytest.mark.parametrize("length", [1, 3, 8, 15])
def test_diagnose_short_noisy_runs_no_finding(length: int) -> None:
    rng = np.random.default_rng(length)
    for _ in range(50):
        scalars = {
            "train/loss": 0.7 + 0.3 * rng.standard_normal(length),
            "train/grad_norm": rng.lognormal(size=length),
            "train/learning_rate": np.linspace(1e-6, 5e-5, length),
            "eval/loss": series(0.7 + 0.02 * rng.standard_normal(2)),
        }
        assert findings_of(scalars) == {}


def test_diagnose_unjudged_rule_names_missing_metric() -> None:
    unjudged = {one.id: one for one in diagnose(run_of({"train/loss": FALLING[:5]})).unjudged}
    assert "update_ratio" in unjudged["update_too_large"].metric
    assert unjudged["update_too_large"].missing == "update ratios by layer (update_ratio/...)"
    assert unjudged["loss_spike"].missing == "30 points of the training loss, there are 5"
    assert "nonfinite" not in unjudged
    assert set(unjudged) == set(RULES) - {"nonfinite"}


def test_diagnose_findings_worst_first() -> None:
    scalars = {**CASES["nonfinite"][0], "clip/factor": flat(0.01), "train/learning_rate": flat(1e-3)}
    severities = [finding.severity for finding in diagnose(run_of(scalars)).findings]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert severities[0] == "error"
    assert severities[-1] == "note"
