"""Tests that docs/diagnosis.md matches the rules and the judged trainings."""

from __future__ import annotations

import re

import pytest
import yaml

from tbx_callbacks import load_config
from tbx_callbacks._config.rule_options import load_rule_settings, load_rules
from tbx_callbacks.rules import RULES
from tbx_callbacks.rules.registry import GROUPS
from tests.helpers.confusion import rule_row
from tests.helpers.planted_faults import FAULTS, HEALTHY
from tests.helpers.runs import ROOT

PAGE = (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RULES)
def test_diagnosis_page_has_row_of_rule(name: str) -> None:
    assert rule_row(name) in PAGE


def test_diagnosis_page_confusion_table_misses_no_fault() -> None:
    rows = re.findall(r"^\| ([^|`]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    named = {name: found for name, found, _ in rows}
    assert set(FAULTS) | set(HEALTHY) <= set(named)
    for name, fault in FAULTS.items():
        assert all(rule in named[name] for rule in fault.symptoms), name
    assert "**missed" not in PAGE


def test_diagnosis_page_threshold_examples_load() -> None:
    example, known, live = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    assert [entry.rule for entry in load_rule_settings(known).acknowledged] == ["no_warmup", "TBX-UPD-003"]
    rules = load_rules(example)
    assert "no_warmup" not in rules
    assert load_rules(live)["overfitting"] == rules["overfitting"]
    live["rules"]["loss_spike"]["call"] = "os.getcwd"
    watched = load_config({"extends": "default", **live}).live.active_rules()
    assert set(watched) == {
        "nonfinite",
        "divergence",
        "replicas_differ",
        "overfitting",
        "loss_spike",
        "clipping_saturated",
        *GROUPS["wiring"],
    }
