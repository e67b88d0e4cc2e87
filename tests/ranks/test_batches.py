"""Tests samples and the scale of the loss under the Trainer on 2 ranks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.launch import launch
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "train_batches.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs")
    return folder, launch(SCRIPT, folder, ranks=2)


def test_loss_that_grows_with_ranks_warned(trained: tuple[Path, str]) -> None:
    _, printed = trained
    parts = dict(part.split("\n", 1) for part in printed.split("training ")[1:] if "too large" in part)
    factors = {name: re.findall(r"are (\d+) times too large", text) for name, text in parts.items()}
    assert factors == {"plain-1": ["2"], "plain-2": ["4"], "attached-1": ["2"], "attached-2": ["4"], "odd": ["2"]}


def test_samples_unknown_on_one_rank_left_out(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    for name in ("plain-1", "attached-1", "plain-2", "attached-2"):
        read = Run(folder / name)
        seconds = read.at("perf/step_s")
        samples = [round(rate * seconds[step], 2) for step, rate in read.at("perf/samples_per_s").items()]
        assert samples == [8.0 * int(name[-1])] * 4, name  # of both ranks
    odd = Run(folder / "odd")
    assert len(odd.at("perf/step_s")) == 4
    assert "perf/samples_per_s" not in odd.scalars
    assert "perf/tokens_per_s" not in odd.scalars
    assert printed.count("perf/samples_per_s is left out: a batch (Odd) has no known size") == 1  # rank 1 says so
