"""Tests rules about the learning rate's schedule."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.rule_cases import FALLING, findings_of, flat, series


def test_no_warmup_sparse_points_no_finding() -> None:
    assert findings_of({"train/learning_rate": series(np.linspace(5e-5, 0, 12), every=500)}) == {}


def test_decayed_early_restarts_no_finding() -> None:
    saw = np.concatenate([np.linspace(1e-6, 5e-5, 5), np.tile(np.linspace(5e-5, 0, 10), 5)])
    assert findings_of({"lr/AdamW/pg1": saw}) == {}


@pytest.mark.parametrize("loss", [FALLING, flat(0.7)])
def test_no_warmup_constant_rate_no_finding(loss: np.ndarray) -> None:
    assert "no_warmup" not in findings_of({"train/learning_rate": flat(1e-3), "train/loss": loss})


def test_no_warmup_constant_rate_loss_rises_note() -> None:
    loss = [0.7, 1.5, 1.2, 1.1, *FALLING]
    assert "no_warmup" in findings_of({"train/learning_rate": flat(1e-3, len(loss)), "train/loss": loss})
