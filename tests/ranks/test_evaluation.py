"""Tests that evaluations on all ranks, or on rank 0 alone, keep the numbers of all ranks."""

from __future__ import annotations

import math
from pathlib import Path

from tests.helpers.launch import run_ranks
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "evaluate_on_ranks.py"


def test_evaluations_off_the_cadence_keep_cross_rank_metrics(tmp_path: Path) -> None:
    ended = run_ranks(SCRIPT, tmp_path / "run", seconds=60)
    assert [rank.code for rank in ended] == [0, 0], [rank.printed[-3000:] for rank in ended]
    assert not [rank.printed for rank in ended if "disabled" in rank.printed]
    run = Run(tmp_path / "run")
    assert [step for step, _ in run.scalars["eval/accuracy"]] == [0, 3, 5, 6, 7, 10]
    assert run.steps("grad_norm/total") == run.steps("train/loss") == [2, 4, 6, 8, 10, 12]
    largest = dict(run.scalars["train/loss_max"])
    assert math.isnan(largest[10])  # the loss of rank 1 at step 9
    assert largest[8] == largest[12] == 1.0
    assert {value for _, value in run.scalars["elements/total"]} == {6.0}
    assert all(value > 0 for _, value in run.scalars["largest_update/total"])
