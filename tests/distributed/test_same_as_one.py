"""What N ranks write is what one process writes on the same global batches: tags, steps and values."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from problems import Run, files

WAYS = Path(__file__).with_name("ways.py")
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
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("alone") / "run"
    launch("alone", 1, folder)
    return Run(folder)


@pytest.mark.parametrize(
    ("way", "ranks", "kind"),
    [
        ("ddp", 2, "['Parameter'] in DistributedDataParallel"),
        ("fsdp", 2, "['DTensor'] in FSDPNet"),
        ("fsdp", 4, "['DTensor'] in FSDPNet"),
        ("hsdp", 4, "['DTensor'] in FSDPNet"),
        ("zero_redundancy", 2, "['Parameter'] in DistributedDataParallel"),
        ("tp", 4, "['DTensor'] in FSDPNet"),
        ("tp_mixed", 2, "['DTensor', 'Parameter'] in Net"),
        ("fsdp1_full_shard", 2, "['Parameter'] in FullyShardedDataParallel"),
        ("fsdp1_shard_grad_op", 2, "['Parameter'] in FullyShardedDataParallel"),
        ("fsdp1_no_shard", 2, "['Parameter'] in FullyShardedDataParallel"),
        ("fsdp1_hybrid_shard", 4, "['Parameter'] in FullyShardedDataParallel"),
    ],
)
def test_the_same_tags_steps_and_values(tmp_path: Path, alone: Run, way: str, ranks: int, kind: str) -> None:
    printed = launch(way, ranks, tmp_path / "run")
    assert printed.count(f"parameters are {kind}") == ranks, printed  # the strategy is truly on
    if way == "zero_redundancy":
        states = [int(found) for found in re.findall(r"states here: (\d+)", printed)]
        assert sum(states) == 7  # of 7 parameters, each on one rank
        assert min(states) > 0
    assert len(files(tmp_path / "run")) == 1
    read = Run(tmp_path / "run")
    assert set(read.scalars) == {*alone.scalars, "train/loss_max"}
    for tag, series in alone.scalars.items():
        if not tag.startswith(("perf/", "memory/")):
            expected = [(step, pytest.approx(value, rel=1e-5, abs=1e-8)) for step, value in series]
            assert read.scalars[tag] == expected, tag
    assert read.steps("perf/samples_per_s") == alone.steps("perf/samples_per_s")
    for step in (2, 4, 6):
        for unit in ("samples", "tokens"):
            per_step = [run.at(f"perf/{unit}_per_s")[step] / run.at("perf/steps_per_s")[step] for run in (read, alone)]
            assert per_step[0] == pytest.approx(per_step[1], rel=1e-3)
    assert set(read.histograms) == set(alone.histograms)
    for tag, histograms in alone.histograms.items():
        assert list(read.histograms[tag]) == [2, 4, 6]
        for step, proto in histograms.items():
            other = read.histograms[tag][step]
            assert other.num == proto.num
            assert list(other.bucket_limit) == pytest.approx(list(proto.bucket_limit), rel=1e-4, abs=1e-8)
            assert sum(abs(a - b) for a, b in zip(other.bucket, proto.bucket, strict=True)) <= 4
