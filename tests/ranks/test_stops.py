"""What a rule decides is done on all ranks after the same step, whatever else they do; and nothing hangs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.launch import Ended, ranks
from tests.helpers.runs import Run

STOPPING = Path(__file__).parent / "scripts" / "train_until_stopped.py"
LOOPS = ("ddp", "slow", "sharded", "uneven", "warns")


def said(ended: list[Ended], scenario: str) -> list[str]:
    assert [rank.code for rank in ended] == [0, 0], [rank.said[-3000:] for rank in ended]
    found = [re.search(f"<{scenario}>(.*)</{scenario}>", rank.said, re.DOTALL) for rank in ended]
    return [match[1] for match in found if match]


def steps(words: list[str], what: str = "ended") -> list[int]:
    return [int(step) for rank in words for step in re.findall(rf"{what} at (\d+)", rank)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stops")


@pytest.fixture(scope="module")
def loops(folder: Path) -> list[Ended]:
    return ranks(STOPPING, folder, *LOOPS, seconds=120)


def test_stop_and_checkpoint_on_all_ranks_same_step(loops: list[Ended], folder: Path) -> None:
    words = said(loops, "ddp")
    assert steps(words) == [7, 7]  # the loss is NaN at step 5, which is logged at step 6
    assert steps(words, "saves") == [7, 7]
    assert ["error nonfinite since step 6" in rank for rank in words] == [True, False]
    (alert,) = Run(folder / "ddp").texts["alerts/nonfinite"]
    assert alert.startswith("**error: nonfinite**, found at step 6")


def test_stop_of_slow_rule_on_same_step(loops: list[Ended]) -> None:
    assert steps(said(loops, "slow")) == [7, 7]


def test_stop_of_sharded_model_at_next_due_step(loops: list[Ended]) -> None:
    assert steps(said(loops, "sharded")) == [9, 9]


def test_stop_with_ended_rank_stops_nobody(loops: list[Ended]) -> None:
    words = said(loops, "uneven")
    assert steps(words) == [16, 5]
    assert words[0].count("ranks are lost") == 1


def test_warning_rule_stops_no_rank(loops: list[Ended]) -> None:
    words = said(loops, "warns")
    assert steps(words) == [16, 16]
    assert words[0].count("error nonfinite since step 6") == 1


@pytest.mark.parametrize(
    ("scenario", "saved"), [("hf", "hf/checkpoint-7"), ("lightning", "pl/checkpoints/alert-step=7.ckpt")]
)
def test_stop_under_trainer_saves_its_checkpoint(tmp_path: Path, scenario: str, saved: str) -> None:
    words = said(ranks(STOPPING, tmp_path, scenario, seconds=120), scenario)
    assert steps(words) == [7, 7]
    assert (tmp_path / saved).exists()
