"""Tests the distance from the initial weights on ranks, in trainings that are resumed with the same or other ranks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.launch import launch
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "train_from_start.py"
SAME = ("ddp", "fsdp", "tp_mixed")
FAMILIES = ("drift", "moved_share", "weight_norm")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the runs, and the output of the training that resumed with other ranks."""
    folder = tmp_path_factory.mktemp("from_start")
    launch(SCRIPT, folder, "alone", "whole:0:8", "fewer:0:4")
    parts = [f"{strategy}:{first}:{last}" for strategy in SAME for first, last in ((0, 4), (4, 6), (6, 8))]
    launch(SCRIPT, folder, *parts, "fsdp:8:10", ranks=2)
    return folder, launch(SCRIPT, folder, "ddp:8:10", "fsdp:10:12", "hsdp:0:4", ranks=4)


def values(run: Run) -> dict[str, object]:
    return {tag: series for tag, series in run.scalars.items() if tag.startswith(FAMILIES)}


@pytest.mark.parametrize("strategy", SAME)
def test_resumed_ranks_equal_uninterrupted_single_process(trained: tuple[Path, str], strategy: str) -> None:
    folder, _ = trained
    whole, parts = Run(folder / "whole"), Run(folder / strategy)
    assert whole.steps("drift/total") == [2, 4, 6, 8]
    assert {*values(parts)} == {*values(whole)}
    for tag in values(whole):
        for step in (2, 4, 6, 8):
            assert parts.at(tag)[step] == pytest.approx(whole.at(tag)[step], rel=1e-5), (tag, step)


def test_ranks_keep_their_own_elements(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    assert [file.name for file in (folder / "ddp" / "initial_weights").iterdir()] == ["rank_0.bin"]
    sizes = [file.stat().st_size for file in sorted((folder / "fsdp" / "initial_weights").iterdir())]
    whole = (folder / "whole" / "initial_weights" / "rank_0.bin").stat().st_size
    assert len(sizes) == 2
    assert max(sizes) < 0.9 * whole
    assert len(list((folder / "hsdp" / "initial_weights").iterdir())) == 2  # the first of two replicas


def test_ddp_with_other_ranks_goes_on(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    assert Run(folder / "ddp").steps("drift/total") == [2, 4, 6, 8, 10]


def test_other_shards_left_out_with_one_warning(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    run = Run(folder / "fsdp")
    assert run.steps("drift/total") == [2, 4, 6, 8, 10]
    assert run.steps("weight_norm/total") == [2, 4, 6, 8, 10, 12]
    (reason,) = re.findall(r"warning drift: left out, because (.*)", printed)
    assert "the weights at the start of the resumed run are unknown: the ranks have other shards now" in reason
