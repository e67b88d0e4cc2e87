"""Tests the rule that finds LoRA adapters that do not train."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.rule_cases import FALLING, N, findings_of, flat

GROWING = np.linspace(0, 0.1, N)
UNCHANGED = "None of the LoRA weights has changed. The adapter is not trained."


def means(scalars: dict[str, Any]) -> str:
    found = findings_of({"train/loss": FALLING, **scalars})
    return found["lora_not_training"].means if "lora_not_training" in found else ""


@pytest.mark.parametrize("tag", ["lora/update/{}", "weight_norm/{}.lora_B.default.weight"])
def test_update_still_zero_is_found(tag: str) -> None:
    assert means({tag.format("q"): flat(0.0), tag.format("v"): GROWING}) == (
        "The LoRA update B A is still zero in 1 layer, starting with q. The adapter has no effect there."
    )


@pytest.mark.parametrize(
    ("q", "v", "expected"),
    [(flat(0.2), flat(0.3), UNCHANGED), (flat(0.2), GROWING, ""), (GROWING, GROWING, "")],
)
def test_unchanged_updates_found_only_if_all(q: Any, v: Any, expected: str) -> None:
    assert means({"lora/update/q": q, "lora/update/v": v}) == expected
