"""Tests that padding is added over ranks, each of which sorts its own rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.launch import launch
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "train_padding.py"


def test_padding_of_ranks_added(tmp_path: Path) -> None:
    launch(SCRIPT, tmp_path / "run", ranks=2)
    read = Run(tmp_path / "run")
    padded, kept = 2 * 2 * 2 * 10, 3 + 9 + 9 + 3 + 1 + 8 + 2 + 7
    assert read.at("padding/share") == {2: pytest.approx(1 - kept / padded)}
    assert read.at("padding/savable") == {2: pytest.approx(1 - (2 * 9 + 2 * 3 + 2 * 8 + 2 * 2) / padded)}
