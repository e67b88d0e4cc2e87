"""Tests that the slowest of several ranks is named, although all of them take the same time for a step."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.launch import launch
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "train_slow_rank.py"


def test_slowest_rank_named_and_reported(tmp_path: Path) -> None:
    printed = launch(SCRIPT, tmp_path / "run", ranks=3)
    read = Run(tmp_path / "run")
    assert read.at("time/slowest_rank") == {2: 1.0, 4: 1.0, 6: 1.0, 8: 1.0}
    assert min(read.at("time/slowest_lead").values()) > 0.05
    data = read.at("time/data_s")
    assert min(data.values()) > 0.2 / 3  # the mean of all ranks
    assert "Rank 1 was the slowest rank" in printed
