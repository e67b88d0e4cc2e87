"""Tests the rule that finds a rank that is always the slowest one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tbx_callbacks.rules.slow_rank import SlowRank
from tests.helpers.rule_cases import run_of


def findings(ranks: Any, lead: Any = 0.3) -> list[Any]:
    leads = np.full(len(ranks), lead) if np.isscalar(lead) else lead
    return list(SlowRank()(run_of({"time/slowest_rank": ranks, "time/slowest_lead": leads})))


@pytest.mark.parametrize(("lead", "severity"), [(0.3, "warning"), (0.1, "note")])
def test_slow_rank_named_with_its_share(lead: float, severity: str) -> None:
    (found,) = findings([2.0, 0.0, *[3.0] * 6], lead)
    assert (found.severity, found.steps) == (severity, (30, 80))
    assert "Rank 3 was the slowest rank for 50 steps: its data, forward pass and callbacks took" in found.means
    assert f"by {lead:.0%} of a step" in found.means


@pytest.mark.parametrize(
    ("ranks", "lead"),
    [
        ([0.0, 1.0] * 20, 0.3),  # another rank each time
        ([0.0] * 5, 0.3),  # for 40 steps only
        ([0.0] * 20, 0.02),  # by next to nothing
        ([0.0] * 20, [0.5] * 9 + [0.0] * 11),
        ([], 0.3),
    ],
)
def test_slow_rank_that_changes_not_found(ranks: Any, lead: Any) -> None:
    assert findings(ranks, lead) == []


def test_slow_rank_of_earlier_stretch_found() -> None:
    (found,) = findings([1.0] * 10 + [0.0, 1.0, 0.0])
    assert found.steps == (10, 100)
