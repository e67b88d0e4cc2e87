"""FullyShardedDataParallel: what is counted once, what is refused, and the names of what only another rank holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from problems import Run

from .test_same_as_one import launch

ELEMENTS = 50 * 7 + 2 * (7 * 7 + 7) + 7 * 2 + 2


def elements(printed: str) -> list[int]:
    return [int(found) for found in re.findall(r"elements here: (\d+)", printed)]


@pytest.mark.parametrize("how", ["full_shard", "shard_grad_op"])
def test_parameters_are_in_pieces(tmp_path: Path, how: str) -> None:
    printed = launch(f"fsdp1_{how}", 2, tmp_path / "run")
    assert sum(elements(printed)) == ELEMENTS
    assert max(elements(printed)) < ELEMENTS


def test_flat_parameters_are_refused_with_the_remedy(tmp_path: Path) -> None:
    printed = launch("fsdp1_flat", 2, tmp_path / "run")
    assert printed.count("FSDP with flat parameters (remedy: FullyShardedDataParallel(..., use_orig_params=True))") == 1
    read = Run(tmp_path / "run")
    assert not any("norm" in tag or tag.startswith("nonfinite") for tag in read.scalars)
    assert not read.histograms
    assert read.steps("train/loss") == [2, 4, 6]


def test_a_bad_layer_is_named_that_rank_0_has_nothing_of(tmp_path: Path) -> None:
    launch("alone_nan", 1, tmp_path / "alone")
    launch("fsdp1_full_shard_nan", 2, tmp_path / "run")
    alone, read = Run(tmp_path / "alone"), Run(tmp_path / "run")
    (said,) = alone.texts["nonfinite/first_bad"][:1]
    assert "gradients hold NaN or Inf in 1 of 5 groups; backward reached last first" in said
    assert read.texts["nonfinite/first_bad"][0] == said
    assert read.at("nonfinite/gradients/last")[2] == alone.at("nonfinite/gradients/last")[2] == 2.0
    assert read.at("nonfinite/found")[2] == 1.0
