"""Tests thresholds from YAML and the error messages about mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks._config.errors import ConfigError
from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.rule_options import load_rule_settings, load_rules
from tbx_callbacks.rules import RULES, default_rules, diagnose
from tbx_callbacks.rules.clipping import ClippingSaturated
from tbx_callbacks.rules.overfitting import Overfitting
from tests.helpers.outside_package import RULE, install
from tests.helpers.rule_cases import run_of


def test_load_rules_thresholds_replaced_and_off() -> None:
    rules = load_rules(
        {"rules": {"clipping_saturated": {"factor": 1, "min_points": 3}, "plateau": False, "lora_not_training": None}}
    )
    assert rules["clipping_saturated"] == ClippingSaturated(factor=1.0, min_points=3)
    assert set(rules) == set(RULES) - {"plateau"}
    assert rules["divergence"] == default_rules()["divergence"]


@pytest.mark.parametrize("given", [{}, {"rules": None}, {"extends": "default", "metrics": ["loss"]}])
def test_load_rules_nothing_given_defaults(given: dict[str, Any]) -> None:
    assert load_rules(given) == default_rules()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"rules": {"divergance": {}}},
            "a mapping: rules must name known rules, got 'divergance'; did you mean 'divergence'?",
        ),
        (
            {"rules": {"divergence": {"ration": 2}}},
            "rules.divergence.ration must be a known threshold, got 'ration'; did you mean 'ratio'?",
        ),
        ({"rules": {"divergence": {"ratio": "2"}}}, "rules.divergence.ratio must be a valid number, got '2'"),
        ({"rules": {"divergence": {"ratio": True}}}, "rules.divergence.ratio must be a valid number, got True"),
        ({"rules": {"divergence": {"ratio": -1}}}, "rules.divergence.ratio must be greater than 0, got -1"),
        ({"rules": {"divergence": {"ratio": float("nan")}}}, "rules.divergence.ratio must be"),
        (
            {"rules": {"divergence": {"min_points": 1.5}}},
            "rules.divergence.min_points must be a valid integer, got 1.5",
        ),
        ({"rules": {"divergence": 3}}, "rules.divergence must be an action, a mapping of thresholds, or off, got 3"),
        ({"rules": ["divergence"]}, "rules must be a mapping of a rule's name to its thresholds, got ['divergence']"),
        ({"rule": {}}, "rule must be a known key; did you mean 'rules'?"),
    ],
)
def test_load_rules_mistake_names_place_and_nearest(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_rules(given)
    assert message in str(raised.value)


def test_load_rules_live_options_ignored() -> None:
    given = {"every": 5, "others": "warn", "divergence": "stop", "overfitting": {"ratio": 2.0, "call": "not.there"}}
    rules = load_rules({"rules": given})
    assert rules == {**default_rules(), "overfitting": Overfitting(ratio=2.0)}
    assert default_rules().keys() - load_rules({"rules": {"plateau": "off"}}).keys() == {"plateau"}
    with pytest.raises(ConfigError, match=r"rules\.divergence must be a known action, got 'halt'; known actions: warn"):
        load_rules({"rules": {"divergence": "halt"}})


def test_load_rules_file_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules:\n  clipping_saturated: {factor: 0.5}\n  plateau: off\n")
    rules = load_rules(file)
    assert rules["clipping_saturated"] == ClippingSaturated(factor=0.5)
    assert "plateau" not in rules
    file.write_text("rules:\n  plateau: {share: 2}\n  plateau: {share: 3}\n")
    with pytest.raises(ConfigError, match=r"rules.yaml: line 3.* given twice"):
        load_rules(file)
    file.write_text("- plateau\n")
    with pytest.raises(ConfigError, match=r"rules.yaml: a file of rules must be a mapping with the key rules"):
        load_rules(file)
    with pytest.raises(ConfigError, match=r"gone.yaml: a file of rules must be a readable UTF-8 file"):
        load_rules(tmp_path / "gone.yaml")


def test_acknowledged_entries_add_to_extended_set(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("metrics: [loss]\nrules: {acknowledged: [{rule: no_warmup, reason: a}]}\n")
    own = {"extends": str(base), "rules": {"acknowledged": [{"rule": "plateau", "reason": "b"}]}}
    assert [entry.rule for entry in load_config(own).live.acknowledged] == ["no_warmup", "plateau"]
    assert load_config({**own, "rules": {}}).live.acknowledged == load_config(base).live.acknowledged
    assert load_config({**own, "rules": False}).live.acknowledged == ()
    assert load_config(own).digest != load_config(base).digest
    assert [entry.rule for entry in load_rule_settings(own).acknowledged] == ["plateau"]


def test_acknowledged_outside_rule_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = RULE.replace("        needs =", "        code = 'ACME-LR-001'\n        needs =", 1)
    install(
        tmp_path,
        monkeypatch,
        {"tbx_callbacks.rules": {"too_high": "my_pkg.rules:TooHigh"}},
        files={"__init__": "", "rules": text},
    )
    for name in ("too_high", "ACME-LR-001"):
        settings = load_rule_settings({"rules": {"acknowledged": [{"rule": name, "reason": "known"}]}})
        run = run_of({"train/loss": [70.0] * 60})
        known = diagnose(run, settings.rules, acknowledged=settings.acknowledged).acknowledged
        assert [one.finding.id for one in known] == ["too_high"]
    named = {"my_pkg.rules.TooHigh": {}, "acknowledged": [{"rule": "my_pkg.rules.TooHigh", "reason": "known"}]}
    assert load_rule_settings({"rules": named}).acknowledged
    with pytest.raises(ConfigError, match="known rule, got 'acme-lr-001'; did you mean 'ACME-LR-001'"):
        load_rules({"rules": {"acknowledged": [{"rule": "acme-lr-001", "reason": "known"}]}})
    with pytest.raises(ConfigError, match="known rule, got 'ACME-LR-002'; did you mean 'ACME-LR-001'"):
        load_rules({"rules": {"acknowledged": [{"rule": "ACME-LR-002", "reason": "known"}]}})
