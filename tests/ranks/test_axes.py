"""Tests the axes of a run on two ranks."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.axes import along
from tests.helpers.launch import run_ranks
from tests.helpers.runs import ROOT, Run

SCRIPT = ROOT / "tests" / "ranks" / "scripts" / "train_axes.py"


def test_axes_samples_summed_over_ranks(tmp_path: Path) -> None:
    ended = run_ranks(SCRIPT, tmp_path)
    assert [rank.code for rank in ended] == [0, 0], [rank.printed[-3000:] for rank in ended]
    assert Run(tmp_path).steps("train/loss") == [2, 4]
    assert along(tmp_path, "samples").steps("train/loss") == [2 * (3 + 4), 4 * (3 + 4)]
