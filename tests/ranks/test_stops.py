"""Tests that rules stop and save all ranks after the same step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.launch import EndedRank, run_ranks
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "train_until_stopped.py"
SCENARIOS = ("ddp", "slow", "sharded", "uneven", "warns", "hf", "lightning")


def printed(ended: list[EndedRank], scenario: str) -> list[str]:
    assert [rank.code for rank in ended] == [0, 0], [rank.printed[-3000:] for rank in ended]
    found = [re.search(f"<{scenario}>(.*)</{scenario}>", rank.printed, re.DOTALL) for rank in ended]
    return [match[1] for match in found if match]


def steps(output: list[str], what: str = "ended") -> list[int]:
    return [int(step) for rank in output for step in re.findall(rf"{what} at (\d+)", rank)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stops")


@pytest.fixture(scope="module")
def ended(folder: Path) -> list[EndedRank]:
    return run_ranks(SCRIPT, folder, *SCENARIOS, seconds=200)


def test_stop_and_checkpoint_on_all_ranks_same_step(ended: list[EndedRank], folder: Path) -> None:
    output = printed(ended, "ddp")
    assert steps(output) == [7, 7]  # the loss is NaN at step 5, which is logged at step 6
    assert steps(output, "saves") == [7, 7]
    assert ["error TBX-NUM-001 nonfinite since step 6" in rank for rank in output] == [True, False]
    (alert,) = Run(folder / "ddp").texts["alerts/nonfinite"]
    assert alert.startswith("**error: nonfinite** (TBX-NUM-001), found at step 6")


def test_stop_of_slow_rule_on_same_step(ended: list[EndedRank]) -> None:
    assert steps(printed(ended, "slow")) == [7, 7]


def test_stop_of_sharded_model_on_same_step(ended: list[EndedRank]) -> None:
    assert steps(printed(ended, "sharded")) == [7, 7]


def test_stop_with_ended_rank_stops_nobody(ended: list[EndedRank]) -> None:
    output = printed(ended, "uneven")
    assert steps(output) == [16, 5]
    assert output[0].count("lost contact with other ranks") == 1


def test_warning_rule_stops_no_rank(ended: list[EndedRank]) -> None:
    output = printed(ended, "warns")
    assert steps(output) == [16, 16]
    assert output[0].count("error TBX-NUM-001 nonfinite since step 6") == 1


@pytest.mark.parametrize(
    ("scenario", "saved"), [("hf", "hf/checkpoint-7"), ("lightning", "pl/checkpoints/alert-step=7.ckpt")]
)
def test_stop_under_trainer_saves_its_checkpoint(
    ended: list[EndedRank], folder: Path, scenario: str, saved: str
) -> None:
    assert steps(printed(ended, scenario)) == [7, 7]
    assert (folder / saved).exists()
