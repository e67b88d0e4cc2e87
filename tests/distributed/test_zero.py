"""What ranks under DeepSpeed ZeRO write is what one process writes, under the HF Trainer."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from problems import Run, bert, files

from .test_same_as_one import launch

WAYS = Path(__file__).with_name("zero_ways.py")
ELSEWHERE = ("perf/", "memory/", "train/loss_max", "train/train_", "train/total_flos")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install deepspeed"
)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("alone") / "run"
    launch("alone", 1, folder, WAYS)
    return Run(folder)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_same_tags_steps_and_values(tmp_path: Path, alone: Run, stage: int) -> None:
    printed = launch(f"zero{stage}", 2, tmp_path / "run", WAYS)
    kind = "DeepSpeedZeroOptimizer_Stage3" if stage == 3 else "DeepSpeedZeroOptimizer"
    assert printed.count(f"trained by DeepSpeedEngine with {kind}\n") == 2
    trained = sum(p.numel() for n, p in bert().named_parameters() if "position_embeddings" not in n)
    parts = [int(found) for found in re.findall(rf"elements here: (\d+) at stage {stage}", printed)]
    assert len(parts) == 2
    assert all(trained / 2 <= part < trained / 2 + 100 for part in parts)  # and padding
    assert len(files(tmp_path / "run")) == 1
    read = Run(tmp_path / "run")
    ours = {tag for tag in read.scalars if not tag.startswith(ELSEWHERE)}
    assert ours == {tag for tag in alone.scalars if not tag.startswith(ELSEWHERE)}
    for tag in sorted(ours):
        least = 1e-6 if "key.bias" in tag else 1e-8  # attention does not depend on it: its gradient is rounding alone
        values = [(step, pytest.approx(value, rel=1e-5, abs=least)) for step, value in alone.scalars[tag]]
        assert read.scalars[tag] == values, tag
    assert set(read.histograms) == set(alone.histograms)
    for tag, histograms in alone.histograms.items():
        for step, proto in histograms.items():
            same_histogram(read.histograms[tag][step], proto, tag)


def same_histogram(read: Any, alone: Any, tag: str) -> None:
    assert read.num == alone.num, tag
    assert list(read.bucket_limit) == pytest.approx(list(alone.bucket_limit), rel=1e-4, abs=1e-7), tag
    assert sum(abs(a - b) for a, b in zip(read.bucket, alone.bucket, strict=True)) <= 4, tag


def test_an_offloaded_optimizer_is_refused_with_the_remedy(tmp_path: Path) -> None:
    printed = launch("zero2_offload", 2, tmp_path / "run", WAYS)
    assert printed.count("DeepSpeed ZeRO with an offloaded optimizer (remedy: leave offload_optimizer out") == 1
    read = Run(tmp_path / "run")
    assert not any("norm/" in tag and tag != "train/grad_norm" for tag in read.scalars)
    assert not read.histograms
    assert read.steps("train/loss") == [2, 4, 6]
