"""What N ranks write is what one process writes on the same global batches: tags, steps and values."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from problems import Run, files

WAYS = Path(__file__).with_name("ways.py")
SCRIPTS = dict.fromkeys(("hf", "lightning"), WAYS.with_name("trainers.py"))
CLOCKS = ("perf/", "memory/", "train/train_runtime", "train/train_samples", "train/train_steps")
TESTS = WAYS.parents[1]


def launch(way: str, ranks: int, folder: Path, script: Path = WAYS) -> str:
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *torchrun, str(script), way, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """What one process writes, by the way it trains; each trained once."""

    @cache
    def train(way: str) -> Run:
        folder = tmp_path_factory.mktemp(way) / "run"
        launch(way, 1, folder, SCRIPTS.get(way, WAYS))
        return Run(folder)

    return train


@pytest.mark.parametrize(
    ("way", "ranks", "single", "proof"),
    [
        ("ddp", 2, "alone", "parameters are ['Parameter'] in DistributedDataParallel"),
        ("fsdp", 2, "alone", "parameters are ['DTensor'] in FSDPNet"),
        ("fsdp", 4, "alone", "parameters are ['DTensor'] in FSDPNet"),
        ("hsdp", 4, "alone", "parameters are ['DTensor'] in FSDPNet"),
        ("zero_redundancy", 2, "alone", "parameters are ['Parameter'] in DistributedDataParallel"),
        ("tp", 4, "alone", "parameters are ['DTensor'] in FSDPNet"),
        ("tp_mixed", 2, "alone", "parameters are ['DTensor', 'Parameter'] in Net"),
        ("fsdp1_full_shard", 2, "alone", "parameters are ['Parameter'] in FullyShardedDataParallel"),
        ("fsdp1_shard_grad_op", 2, "alone", "parameters are ['Parameter'] in FullyShardedDataParallel"),
        ("fsdp1_no_shard", 2, "alone", "parameters are ['Parameter'] in FullyShardedDataParallel"),
        ("fsdp1_hybrid_shard", 4, "alone", "parameters are ['Parameter'] in FullyShardedDataParallel"),
        ("hf-ddp", 2, "hf", "parameters are ['Parameter'] in DistributedDataParallel"),
        ("hf-fsdp", 2, "hf", "parameters are ['DTensor'] in FSDPNet"),
        ("lightning-ddp", 2, "lightning", "strategy is DDPStrategy"),
    ],
)
def test_the_same_tags_steps_and_values(
    tmp_path: Path, alone: Callable[[str], Run], way: str, ranks: int, single: str, proof: str
) -> None:
    printed = launch(way, ranks, tmp_path / "run", SCRIPTS.get(single, WAYS))
    assert printed.count(proof) == ranks, printed  # the strategy is truly on
    if way == "zero_redundancy":
        states = [int(found) for found in re.findall(r"states here: (\d+)", printed)]
        assert sum(states) == 7  # of 7 parameters, each on one rank
        assert min(states) > 0
    assert len(files(tmp_path / "run")) == 1
    compare(Run(tmp_path / "run"), alone(single))


def compare(read: Run, alone: Run) -> None:
    assert {*read.scalars} - {"train/loss_max"} == {*alone.scalars}
    for tag, series in alone.scalars.items():
        if not tag.startswith(CLOCKS):
            # abs: the gradient of a key's bias is 0 but for rounding, since softmax does not see it
            expected = [(step, pytest.approx(value, rel=1e-5, abs=1e-7)) for step, value in series]
            assert read.scalars[tag] == expected, tag
    assert read.steps("perf/samples_per_s") == alone.steps("perf/samples_per_s")
    for step in read.steps("perf/samples_per_s"):
        for unit in ("samples", "tokens"):
            per_step = [run.at(f"perf/{unit}_per_s")[step] / run.at("perf/steps_per_s")[step] for run in (read, alone)]
            assert per_step[0] == pytest.approx(per_step[1], rel=1e-3)
    assert set(read.histograms) == set(alone.histograms) != set()
    for tag, histograms in alone.histograms.items():
        assert list(read.histograms[tag]) == list(histograms)
        for step, proto in histograms.items():
            other = read.histograms[tag][step]
            width = proto.bucket_limit[-1] - proto.bucket_limit[0]
            assert other.num == proto.num
            assert list(other.bucket_limit) == pytest.approx(list(proto.bucket_limit), abs=1e-5 * width)
            assert sum(abs(a - b) for a, b in zip(other.bucket, proto.bucket, strict=True)) <= 4
