"""Tests that decisions of rank 0 reach all ranks at the same step, whichever rank is ahead."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.launch import run_ranks

SCRIPT = Path(__file__).parent / "scripts" / "send_decisions.py"


@pytest.fixture(scope="module")
def printed() -> list[str]:
    ended = run_ranks(SCRIPT, seconds=60)
    assert [rank.code for rank in ended] == [0, 0], [rank.printed[-3000:] for rank in ended]
    return [rank.printed for rank in ended]


def value_of(printed: str, scenario: str, name: str) -> Any:
    part = printed[printed.index(f"<{scenario}>") : printed.index(f"</{scenario}>")]
    (value,) = re.findall(f"^{name}: (.*)$", part, re.MULTILINE)
    return ast.literal_eval(value)


def test_budget_exceeded_on_rank_0_stretches_all_ranks(printed: list[str]) -> None:
    first, second = (value_of(rank, "budget", "slow here") for rank in printed)
    assert first == second == value_of(printed[0], "budget", "slow written")
    # The cost is known after three runs; the message goes with the third or, if that is merged already, the next one.
    assert first[:3] == [5, 10, 15]
    rest = first[4:] if first[3] == 20 else first[3:]
    assert {b - a for a, b in itertools.pairwise(rest)} == {50}
    assert [value_of(rank, "budget", "cheap here") for rank in printed] == [list(range(5, 201, 5))] * 2
    assert printed[0].count("monitoring took") == 1
    assert "monitoring took" not in printed[1]
    assert [value_of(rank, "budget", "texts") for rank in printed] == [[15], []]


def test_budget_exceeded_on_another_rank_changes_nothing(printed: list[str]) -> None:
    for rank in printed:
        assert value_of(rank, "within", "slow here") == list(range(5, 201, 5))


def test_decisions_of_thread_delivered_at_same_step(printed: list[str]) -> None:
    first, second = (value_of(rank, "thread", "acted") for rank in printed)
    assert first == second
    assert [numbers for _, numbers in first] == [[float(n), 0.5] for n in (1, 2, 3)]
    # The step after a due one, or after a point of the user's scalars.
    assert all(step % 3 == 1 or step % 10 == 1 for step, _ in first)


def test_memory_largest_rank_named(printed: list[str]) -> None:
    assert [value_of(rank, "memory", "largest") for rank in printed] == [[(1, 1.0)], []]
