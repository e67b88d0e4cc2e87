"""Tests the registry of rules."""

from __future__ import annotations

import dataclasses

import pytest

from tbx_callbacks.rules import RULES


@pytest.mark.parametrize("rule", RULES)
def test_registry_rule_has_thresholds_id_and_source(rule: str) -> None:
    cls = RULES[rule]
    assert cls.id == rule
    assert cls.needs
    assert cls.source
    assert all(isinstance(option.default, (int, float)) for option in dataclasses.fields(cls))  # type: ignore[arg-type]
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
