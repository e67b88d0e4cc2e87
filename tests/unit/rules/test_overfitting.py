"""Tests rules that compare training with evaluation."""

from __future__ import annotations

from tests.helpers.rule_cases import FALLING, findings_of, flat, series


def test_overfitting_wavering_evaluation_no_finding() -> None:
    evaluation = series([0.6, 0.4, 0.3, 0.31, 0.33, 0.32], every=100)
    assert "overfitting" not in findings_of({"train/loss": FALLING, "eval/loss": evaluation})
    falls_too = series([0.6, 0.4, 0.3, 0.45, 0.5], every=100)
    # the training loss did not fall
    assert "overfitting" not in findings_of({"train/loss": flat(0.5), "eval/loss": falls_too})
