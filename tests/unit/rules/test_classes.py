"""Tests the rule about classes that are never predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.rule_cases import CASES, FALLING, N, findings_of, flat

RULE = "class_never_predicted"
NEVER = dict(CASES[RULE][0])


def last(values: float, at: int) -> np.ndarray[Any, Any]:
    """Zeros, and one point that is not."""
    series = flat(0.0)
    series[at] = values
    return series


def shares(family: str, *values: Any) -> dict[str, Any]:
    return {f"train/{family}/{n}": flat(v) if isinstance(v, float) else v for n, v in enumerate(values)}


@pytest.mark.parametrize(
    "changed",
    [
        {"train/predicted_share/1": last(0.02, N - 1)},  # predicted once
        {"train/predicted_share/1": last(0.02, N - N // 3)},
        {"train/label_share/1": flat(0.0)},  # no such labels
        {"train/labels": flat(16.0)},  # 16 labels of the class in the last third
        {"train/label_share/1": last(0.05, N - 1)},
        {"train/loss": flat(0.69)},  # nothing was learned: underfitting
        {"train/learning_rate": np.linspace(0, 1e-3, N)},  # still in the warm-up
        {"train/learning_rate": [*np.linspace(0, 1e-3, 50), *np.linspace(1e-3, 8e-4, 10)]},
        {"train/loss": FALLING},  # it still learns
        {"train/loss": FALLING, "train/learning_rate": np.linspace(1e-3, 5e-4, N)},
        {"train/loss": [*NEVER["train/loss"][:-1], np.nan]},
        {"train/loss": [*NEVER["train/loss"][:45], *flat(np.nan, 15)]},
        {"train/reward": flat(1.0)},
        {"train/d_loss": flat(1.0)},
        {"train/label_share/1": last(np.nan, 3) + 0.05},
        {"train/label_share/1": flat(0.05, N - 1)},  # other steps
    ],
)
def test_class_predicted_or_too_early_no_finding(changed: dict[str, Any]) -> None:
    assert RULE not in findings_of({**NEVER, **changed})


@pytest.mark.parametrize("points", [5, 15, 29])
def test_class_never_predicted_run_begins_no_finding(points: int) -> None:
    assert RULE not in findings_of({tag: values[:points] for tag, values in NEVER.items()})


def test_class_never_predicted_early_guess_forgotten() -> None:
    finding = findings_of({**NEVER, "train/predicted_share/1": last(0.5, 10)})[RULE]
    assert finding.severity == "warning"
    assert finding.numbers == {"labels": pytest.approx(20 * 64 * 0.05), "share": pytest.approx(0.05), "classes": 1}
    assert "Class 1, 5.0% of the labels, was never predicted from step 410 to 600" in finding.means


def test_class_never_predicted_several_most_frequent_named() -> None:
    scalars = {
        "train/loss": NEVER["train/loss"],
        "train/labels": flat(64.0),
        **shares("label_share", 0.5, 0.1, 0.3, 0.1),
        **shares("predicted_share", 1.0, 0.0, 0.0, 0.0),
    }
    finding = findings_of(scalars)[RULE]
    assert finding.tags == tuple(f"train/predicted_share/{n}" for n in (1, 2, 3))
    assert "Class 2, 30.0% of the labels" in finding.means
    assert "and so were 2 other classes" in finding.means


def test_class_never_predicted_learning_rate_came_down() -> None:
    rates = np.interp(np.arange(N), [0, 6, N - 1], [0.1, 1, 0]) * 5e-5
    assert RULE in findings_of({**NEVER, "train/learning_rate": rates})
    assert RULE in findings_of({**NEVER, "train/loss": FALLING, "train/learning_rate": rates})  # the run is over
