"""Tests rules that compare training with evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.rule_options import load_rules
from tbx_callbacks.rules import diagnose
from tests.helpers.rule_cases import FALLING, findings_of, flat, run_of, series


def test_overfitting_wavering_evaluation_no_finding() -> None:
    evaluation = series([0.6, 0.4, 0.3, 0.31, 0.33, 0.32], every=100)
    assert "overfitting" not in findings_of({"train/loss": FALLING, "eval/loss": evaluation})
    falls_too = series([0.6, 0.4, 0.3, 0.45, 0.5], every=100)
    # the training loss did not fall
    assert "overfitting" not in findings_of({"train/loss": flat(0.5), "eval/loss": falls_too})


def short(evaluation: list[float], *, last: float = 0.19) -> dict[str, object]:
    losses = [0.69, 0.66, 0.58, 0.5, 0.46, 0.41, 0.37, 0.33, 0.29, 0.25, 0.22, last]
    return {"train/loss": series(losses, every=5), "eval/loss": series(evaluation, every=20)}


def test_overfitting_three_epochs_is_found() -> None:
    finding = findings_of(short([0.474, 0.480, 0.549]))["overfitting"]
    assert finding.severity == "warning"
    assert finding.steps == (20, 60)
    assert "between steps 20 and 40" in finding.means


@pytest.mark.parametrize(
    "evaluation", [[0.474, 0.45, 0.44], [0.474, 0.48, 0.478], [0.474, 0.47, 0.49], [0.01, 0.012, 0.014]]
)
def test_overfitting_three_good_epochs_no_finding(evaluation: list[float]) -> None:
    assert "overfitting" not in findings_of(short(evaluation))


@pytest.mark.parametrize("offset", [-1.0, -3.0])
def test_overfitting_of_negative_loss_is_found(offset: float) -> None:
    evaluation = series(np.array([0.6, 0.4, 0.3, 0.45, 0.6, 0.7]) + offset, every=100)
    scalars = {"train/loss": FALLING + offset, "eval/loss": evaluation}
    assert findings_of(scalars)["overfitting"].steps[0] == 300
    falls = series(np.array([0.6, 0.4, 0.3, 0.31, 0.29, 0.3]) + offset, every=100)
    assert "overfitting" not in findings_of({**scalars, "eval/loss": falls})


@pytest.mark.parametrize("rising", [[7.3, 43.0, 115.0, 212.0], [1.5, 2.0, 3.0, 4.0]])
def test_evaluation_wrong_from_start_is_no_overfitting(rising: list[float]) -> None:
    found = findings_of({"train/loss": FALLING, "eval/loss": series(rising, every=100)})
    assert found["eval_disagrees"].severity == "error"
    assert "overfitting" not in found


def test_accuracy_gap_since_last_evaluation_no_finding() -> None:
    learned_at_once = [*flat(0.5, 9), *flat(1.0, 5)]  # evaluations at steps 10 to 90
    scalars = {"train/accuracy": learned_at_once, "eval/accuracy": series(flat(0.5, 3), every=30)}
    assert "accuracy_gap" not in findings_of(scalars)


WRONG = {
    "train/loss": FALLING,
    "eval/loss": series([1.5, 1.8, 2.3, 2.8], every=100),
    "eval/accuracy": series([0.45, 0.3, 0.2, 0.1], every=100),
}


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({}, {"eval_disagrees"}),
        ({"eval_disagrees": False}, {"overfitting"}),
        ({"eval_disagrees": {"above": 5, "accuracy": 0.01}}, {"overfitting"}),
        ({"eval_disagrees": {"accuracy": 0.01}}, {"eval_disagrees"}),
        ({"eval_disagrees": {"above": 5, "accuracy": 0.01}, "overfitting": {"ratio": 1.3}}, {"overfitting"}),
    ],
)
def test_overfitting_leaves_what_eval_disagrees_takes(rules: dict[str, Any], named: set[str]) -> None:
    run = run_of(WRONG)
    mine = {"overfitting", "eval_disagrees"}
    assert {finding.id for finding in diagnose(run, load_rules({"rules": rules})).findings} & mine == named
    live = load_config({"metrics": ["loss"], "rules": {**rules, "others": "warn"}}).live.active_rules()
    found = [finding.id for entry in live.values() for finding in diagnose(run, {"one": entry.rule}).findings]
    assert set(found) & mine == named


@pytest.mark.parametrize(
    ("trained", "evaluations", "is_found"),
    [
        (0.52, [0.3, 0.4, 0.42, 0.09], False),  # the weights broke just before
        (0.95, [0.7, 0.9, 0.9, 0.5], False),
        (0.52, [0.3, 0.4, 0.1, 0.09], True),
        (0.95, [0.7, 0.7, 0.7, 0.7], True),
    ],
)
def test_accuracy_gap_one_bad_evaluation_no_finding(
    trained: float, evaluations: list[float], *, is_found: bool
) -> None:
    scalars = {"train/accuracy": flat(trained), "eval/accuracy": series(evaluations, 150)}
    assert ("accuracy_gap" in findings_of(scalars)) == is_found
