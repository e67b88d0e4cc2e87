"""Tests metrics of whole matrices on ranks: right with copies, left out with one warning where ranks hold shards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.launch import launch
from tests.helpers.runs import Run

SCRIPT = Path(__file__).parent / "scripts" / "train_matrices.py"
FAMILIES = ("lora/", "spectral/")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("matrices")
    launch(SCRIPT, folder, "alone")
    return folder, launch(SCRIPT, folder, "ddp", "fsdp", ranks=2)


def test_matrices_with_ddp_equal_single_process(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    alone, ddp = Run(folder / "alone"), Run(folder / "ddp")
    tags = {tag for tag in alone.scalars if tag.startswith(FAMILIES)}
    assert {"lora/update/0", "lora/stable_rank/2", "spectral/norm/3", "spectral/norm/0.base_layer"} <= tags
    assert tags == {tag for tag in ddp.scalars if tag.startswith(FAMILIES)}
    for tag in tags:
        assert ddp.steps(tag) == [2, 4]
        assert ddp.scalars[tag] == [(step, pytest.approx(value, rel=1e-4)) for step, value in alone.scalars[tag]]


def test_matrices_with_shards_left_out_with_one_warning(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    run = Run(folder / "fsdp")
    assert run.steps("weight_norm/total") == [2, 4]
    assert not [tag for tag in run.scalars if tag.startswith(FAMILIES)]
    (found,) = re.findall(r"warning (.*): left out, because ranks hold parts of weight matrices; (.*)", printed)
    assert found == ("lora, spectral", "use DistributedDataParallel to have them")
