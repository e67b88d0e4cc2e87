"""Tests rules of other packages in metric sets and in files of rules."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks import ConfigError, load_config
from tbx_callbacks._config.json_schema import json_schema
from tbx_callbacks._config.rule_options import load_rules
from tbx_callbacks.rules import RULES, diagnose
from tests.helpers.outside_package import FILES, RULE, install
from tests.helpers.rule_cases import run_of

PATH = "my_pkg.rules.TooHigh"


@pytest.fixture(autouse=True)
def _outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = RULE.replace("threshold: float", 'id = "with_id"\n        threshold: float')
    entry_points = {"too_high": "my_pkg.rules:TooHigh", "with_id": "my_pkg.named:TooHigh"}
    install(tmp_path, monkeypatch, {"tbx_callbacks.rules": entry_points}, files={**FILES, "named": named})


@pytest.mark.parametrize("name", ["too_high", PATH])
def test_live_outside_rule_has_threshold_and_response(name: str) -> None:
    config = load_config({"metrics": ["loss"], "rules": {name: {"action": "stop", "threshold": 3}}})
    ((active, entry),) = config.live.active_rules().items()
    assert active == name == entry.rule.id
    assert entry.response.actions == ("stop",)
    assert entry.rule.threshold == 3  # type: ignore[attr-defined]
    assert config.live.may_act
    copied = pickle.loads(pickle.dumps(config))
    assert copied == config
    assert copied.live.active_rules()[name].rule.id == name


def test_live_others_include_entry_points_once() -> None:
    others = load_config({"metrics": ["loss"], "rules": {"others": "warn"}}).live.active_rules()
    assert set(others) == {*RULES, "too_high", "with_id"}
    rules = {"others": "warn", "my_pkg.named.TooHigh": {"threshold": 9}}
    active = load_config({"metrics": ["loss"], "rules": rules}).live.active_rules()
    assert set(active) == {*RULES, "too_high", "my_pkg.named.TooHigh"}


def test_live_rule_named_twice_refused_or_replaced(tmp_path: Path) -> None:
    twice = {"with_id": "warn", "my_pkg.named.TooHigh": "stop"}
    with pytest.raises(
        ConfigError, match=r"rules must name every rule once, but my_pkg\.named\.TooHigh is the rule with_id again"
    ):
        load_config({"metrics": ["loss"], "rules": twice})
    path = tmp_path / "base.yaml"
    path.write_text("metrics: [loss]\nrules: {with_id: warn, nonfinite: warn}\n")
    live = load_config({"extends": str(path), "rules": {"my_pkg.named.TooHigh": "stop"}}).live
    assert set(live.active_rules()) == {"nonfinite", "my_pkg.named.TooHigh"}


MISTAKES: list[tuple[str, Any, str]] = [
    (
        "my_pkg.rules.TooHih",
        "stop",
        " must name a rule that can be used, got 'my_pkg.rules.TooHih': module my_pkg.rules",
    ),
    (PATH, {"treshold": 3}, f".{PATH}.treshold must be a known threshold, got 'treshold'; did you mean 'threshold'?"),
    (PATH, {"threshold": -1}, f".{PATH}.threshold must be greater than 0, got -1"),
    (PATH, "halt", f".{PATH} must be a known action, got 'halt'; known actions: warn, stop, checkpoint"),
    (
        "my_pkg.metrics.Kurtosis",
        "warn",
        " must name a rule that can be used, got 'my_pkg.metrics.Kurtosis': needs must",
    ),
    ("too_hgh", "warn", " must name known rules, got 'too_hgh'; did you mean 'too_high'? known rules: nonfinite"),
]


@pytest.mark.parametrize(("name", "options", "message"), MISTAKES, ids=[message[:60] for _, _, message in MISTAKES])
def test_outside_rule_mistake_names_place(name: str, options: Any, message: str) -> None:
    for load in (load_config, load_rules):
        with pytest.raises(ConfigError) as raised:
            load({"metrics": ["loss"], "rules": {name: options}})
        assert str(raised.value).startswith(f"a mapping: rules{message}")


def test_diagnose_runs_rules_of_entry_points() -> None:
    run = run_of({"train/loss": [4.0, 4.0, 4.0]})
    assert {finding.id for finding in diagnose(run).findings} >= {"too_high", "with_id"}
    rules = load_rules({"rules": {"too_high": {"threshold": 5}, "with_id": False, "my_pkg.rules.TooHigh": None}})
    ids = {finding.id for finding in diagnose(run, rules).findings}
    assert PATH in ids
    assert not {"too_high", "with_id"} & ids


def test_schema_accepts_outside_rules() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    good = [{"too_high": {"threshold": 3}}, {"too_high": False}, {PATH: "stop"}, {PATH: {"action": "stop", "x": 3}}]
    bad = [{"too_high": {"treshold": 3}}, {"too_hgh": "warn"}, {PATH: 3}, {PATH: "halt"}]
    assert [rules for rules in good if not validator.is_valid({"rules": rules})] == []
    assert [rules for rules in bad if validator.is_valid({"rules": rules})] == []
