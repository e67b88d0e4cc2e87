"""Tests that a user's scalars are the mean over the ranks that logged them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.launch import run_ranks
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "log_own_scalars.py"


def test_own_scalars_merged_over_logging_ranks(tmp_path: Path) -> None:
    ended = run_ranks(SCRIPT, tmp_path / "run", seconds=60)
    assert [rank.code for rank in ended] == [0, 0], [rank.printed[-3000:] for rank in ended]
    assert not [rank.printed for rank in ended if "warning" in rank.printed]
    run = Run(tmp_path / "run")

    def mean(*steps: int) -> float:  # rank 0 logs one value a step, rank 1 two
        return sum(10 * step + 2 * (10 * step + 1) for step in steps) / (3 * len(steps))

    expected = {2: mean(1, 2), 4: mean(3, 4), 6: mean(5, 6), 7: mean(7)}
    assert run.scalars["own/both"] == [(step, pytest.approx(value)) for step, value in expected.items()]
    assert run.scalars["own/late"] == [(6, 5.5), (7, 7.0)]
    assert run.scalars["eval/own/both"] == [(3, 3000.5), (6, 6000.5), (7, 7000.5)]
    assert run.scalars["eval/own/rank_1"] == [(3, 3.0), (6, 6.0), (7, 7.0)]
    assert run.steps("weight_norm/total") == [5]
    assert run.steps("train/loss") == [3, 6]
