"""Tests the rules that read the checks of the wiring."""

from __future__ import annotations

import re

import pytest

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks.rules import diagnose
from tbx_callbacks.rules.registry import RULES as EVERY_RULE
from tbx_callbacks.rules.wiring import RULES
from tests.helpers.rule_cases import WIRING, findings_of, flat, run_of, series

FINE = {"labels_ignored": 0.9, "perfect_at_once": 0.99, "first_loss_unusual": 1.2, "unknown_tokens": 0.01}


@pytest.mark.parametrize("rule", RULES)
def test_wiring_rule_finds_number_with_details(rule: str) -> None:
    tag, number = f"wiring/{rule}", WIRING.get(rule, 3.0)
    found = findings_of({tag: series([number], every=3)}, {f"{tag}/details": (3, "the encoder")})[rule]
    assert found.steps == (3,)
    assert found.numbers == {tag: number}
    assert not re.search(r"[{}]", found.means)  # everything is filled in
    assert ("the encoder" in found.means) == ("{details}" in RULES[rule].means)  # type: ignore[attr-defined]


@pytest.mark.parametrize("rule", RULES)
def test_wiring_rule_silent_without_or_with_good_number(rule: str) -> None:
    good = run_of({f"wiring/{rule}": [FINE.get(rule, 0.0)]})
    assert [finding.id for finding in diagnose(good).findings] == []
    assert rule not in {entry.id for entry in diagnose(good).unjudged}
    assert rule in {entry.id for entry in diagnose(run_of({"train/loss": [1.0]})).unjudged}


@pytest.mark.parametrize(
    ("rule", "values", "severity"),
    [
        ("eval_mode_in_training", [1, 1, 1], "note"),  # from the start: meant so
        ("eval_mode_in_training", [0, 0.5, 1], "warning"),
        ("eval_mode_in_training", [1, 1, 0], "note"),  # a head that is probed before the whole model trains
        ("eval_mode_in_training", [0.5, 0], "warning"),
        ("weights_changed_outside", [1, 1, 1], "note"),
        ("weights_changed_outside", [0, 0.2, 0], "note"),
        ("evaluation_rows_in_training", [0.01], "note"),
        ("evaluation_rows_in_training", [0.5], "warning"),
    ],
)
def test_wiring_rule_severity_depends_on_values(rule: str, values: list[float], severity: str) -> None:
    assert findings_of({f"wiring/{rule}": series(values)})[rule].severity == severity


@pytest.mark.parametrize(("after", "severity"), [(0.4, "note"), (1.1, "warning")])
def test_wiring_weights_changed_warns_if_loss_rises(after: float, severity: str) -> None:
    losses = [1.0, 0.8, 0.6, 0.5, 0.4, 0.4, after, after - 0.02, after - 0.05, 0.4, 0.3]
    changes = series([0, 0, 0, 0, 0, 0, 0.1, 0, 0, 0, 0])
    found = findings_of({"train/loss": losses, "wiring/weights_changed_outside": changes})
    assert found["weights_changed_outside"].severity == severity


def test_wiring_weights_changed_as_habit_is_note() -> None:
    losses = [1.0, 0.8, 0.6, 0.5, 0.4, 0.4, 1.1, 1.1, 1.0, 0.4, 0.3]
    found = findings_of({"train/loss": losses, "wiring/weights_changed_outside": flat(1.0, 11)})
    assert found["weights_changed_outside"].severity == "note"


def test_wiring_parameter_optimized_later_not_named() -> None:
    assert "parameter_not_optimized" in findings_of({"wiring/parameter_not_optimized": [4.0]})
    assert "parameter_not_optimized" not in findings_of({"wiring/parameter_not_optimized": [4.0, 0.0]})


def test_wiring_rule_without_text_says_so() -> None:
    found = findings_of({"wiring/no_gradient": [4.0]})["no_gradient"]
    assert "another rank names them" in found.means


def test_wiring_group_sets_response_of_every_rule() -> None:
    rules = {"wiring": "stop", "labels_ignored": "warn", "double_softmax": False}
    active = load_config({"metrics": ["wiring"], "rules": rules}).live.active_rules()
    assert active.keys() == set(RULES) - {"double_softmax"}
    assert active["no_gradient"].response.actions == ("stop",)
    assert active["labels_ignored"].response.actions == ("warn",)
    assert load_config({"extends": "default", "rules": {"wiring": False}}).live.active_rules().keys().isdisjoint(RULES)


def test_wiring_rules_are_in_registry() -> None:
    assert set(RULES) <= set(EVERY_RULE)


def test_wiring_number_agrees_with_its_words() -> None:
    one, two = (
        findings_of({"wiring/parameter_not_optimized": series([n], every=3)})["parameter_not_optimized"]
        for n in (1.0, 2.0)
    )
    assert one.means.startswith("1 parameter gets gradients and belongs to no optimizer")
    assert two.means.startswith("2 parameters get gradients and belong to no optimizer")
