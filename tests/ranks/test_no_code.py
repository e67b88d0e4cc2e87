"""Runs an unchanged training script on two processes that torchrun starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.launch import free_port
from tests.helpers.processes import python
from tests.helpers.runs import ROOT, Run, files

SCRIPT = ROOT / "tests" / "helpers" / "no_code" / "classify.py"
OPTIONS = "--max_steps 4 --logging_steps 2 --use_cpu true --report_to none --save_strategy no --disable_tqdm true"


@pytest.mark.slow
def test_torchrun_of_unchanged_script_logs_once(tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    command = ["-m", "tbx_callbacks", "run", "--config", "full", "--logdir", "run", SCRIPT]
    arguments = [*OPTIONS.split(), "--output_dir", "out", "--per_device_train_batch_size", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "TBX_CALLBACKS_QUIET"}
    environment["OMP_NUM_THREADS"] = "1"
    done = python(*launcher, *command, *arguments, cwd=tmp_path, seconds=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("tbx_callbacks writes this run to run") == 1
    assert "nothing was logged" not in done.stderr
    assert len(files(tmp_path / "run")) == 1
    read = Run(tmp_path / "run")
    assert read.steps("train/loss") == [2, 4]
    assert read.at("grad_norm/total") == pytest.approx(read.at("train/grad_norm"), rel=1e-5)  # attached on both ranks
    assert read.scalars["replicas/weights/total"] == [(2, 0.0), (4, 0.0)]
