"""Tests the best value so far of each evaluation metric."""

from __future__ import annotations

import math
from typing import Any

from tbx_callbacks._engine.best_values import BestValues


def test_best_values_smallest_loss_largest_score() -> None:
    best = BestValues({})
    logs: list[dict[str, Any]] = [
        {"eval/loss": 0.5, "eval/f1": 0.1, "train/loss": 0.1},
        {"eval/loss": 0.4, "eval/f1": 0.3, "eval/note": "words"},
        {"eval/loss": 0.6, "eval/f1": math.nan},
    ]
    for each in logs:
        best.update(each)
    assert best.values == {"eval/loss": 0.4, "eval/f1": 0.3}


def test_best_values_unknown_metric_left_out() -> None:
    best = BestValues({"eval/mine": True}, {"other": False, "eval/third": True, "loss": True})
    for value in (0.5, 0.75, 0.25):
        best.update({f"eval/{name}": value for name in ("score", "mine", "other", "third", "loss")})
        best.update({"val_other": value})
    assert best.values == {
        "eval/mine": 0.75, "eval/other": 0.25, "val_other": 0.25, "eval/third": 0.75, "eval/loss": 0.75
    }  # fmt: skip


def test_best_values_direction_of_trainer_wins() -> None:
    best = BestValues({"eval/loss": True})
    for loss in (0.5, 0.7, 0.6):
        best.update({"eval/loss": loss})
    assert best.values == {"eval/loss": 0.7}
