"""Tests rules about the learning rate's schedule."""

from __future__ import annotations

import numpy as np

from tests.helpers.rule_cases import findings_of, series


def test_no_warmup_sparse_points_no_finding() -> None:
    assert findings_of({"train/learning_rate": series(np.linspace(5e-5, 0, 12), every=500)}) == {}


def test_decayed_early_restarts_no_finding() -> None:
    saw = np.concatenate([np.linspace(1e-6, 5e-5, 5), np.tile(np.linspace(5e-5, 0, 10), 5)])
    assert findings_of({"lr/AdamW/pg1": saw}) == {}
