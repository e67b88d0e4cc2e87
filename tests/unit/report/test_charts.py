"""Tests which series a chart shows, and under which names."""

from __future__ import annotations

import numpy as np

from tbx_callbacks.report.charts import LINES, _scores
from tbx_callbacks.runs.series import Run, Series


def run_of(*names: str) -> Run:
    steps = np.arange(1, 4)
    return Run(scalars={name: Series(steps, np.full(3, 0.5), steps.astype(float)) for name in names})


def test_scores_single_evaluation_accuracy_named_eval() -> None:
    assert _scores(run_of("eval/accuracy")) == {"eval/accuracy": "eval accuracy"}


def test_scores_of_several_evaluations_told_apart() -> None:
    found = _scores(run_of("eval/accuracy", "test/accuracy", "eval/f1"))
    assert found["test/accuracy"] == "test accuracy"
    assert len(set(found.values())) == len(found)


def test_calibration_chart_names_splits_if_several() -> None:
    names = ("calibration/ece", "calibration/ece_at_temperature", "calibration/temperature", "accuracy")
    one = run_of(*(f"eval/{name}" for name in names))
    assert LINES["calibration"].choice(one) == {
        "eval/calibration/ece": "error",
        "eval/calibration/ece_at_temperature": "error at temperature",
    }
    two = run_of("eval/calibration/temperature", "test/calibration/temperature", "calibration/temperature")
    assert list(LINES["temperature"].choice(two).values()) == ["eval temperature", "test temperature"]
    assert _scores(one) == {"eval/accuracy": "eval accuracy"}
