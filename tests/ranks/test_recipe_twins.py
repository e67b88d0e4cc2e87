"""Tests that the recipes without the Hugging Face Trainer train on 2 ranks as in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.limits import limit
from tests.helpers.runs import ROOT, Run, files
from tests.ranks.test_recipe import TORCHRUN, prepare


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twins")
    prepare(folder)
    (folder / "set.yaml").write_text("{every: 2, metrics: [loss, throughput, grad_norm: {by: total}]}")
    return folder


def trained(base: Path, name: str, *, ranks: int, batch: int, accumulate: int) -> Run:
    output = f"{name}-{ranks}"
    options = ["--data", base / "data", "--model", base / "model", "--config", base / "set.yaml", "--lr", 0.01]
    options += ["--batch", batch, "--accumulate", accumulate, "--epochs", 1, "--logging-steps", 2]
    launcher = ["-m", *TORCHRUN] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, [ROOT / "recipes" / f"{name}.py", *options, "--output-dir", output])],
        env={**os.environ, "HF_DATASETS_CACHE": str(base / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        cwd=base,
        capture_output=True,
        text=True,
        timeout=limit(180),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert done.stdout.count("results after") == 1
    (folder,) = (base / output / "runs").iterdir()
    assert len(files(folder)) == 1
    return Run(folder)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", ["bert_sentiment_loop", pytest.param("bert_sentiment_lightning", marks=pytest.mark.thorough)]
)
def test_recipe_on_ranks_trains_as_alone(base: Path, name: str) -> None:
    alone = trained(base, name, ranks=1, batch=8, accumulate=1)
    shared = trained(base, name, ranks=2, batch=2, accumulate=2)
    assert alone.steps("train/loss") == shared.steps("train/loss") == [2, 4, 6, 8, 10, 12]
    for tag in ("train/loss", "grad_norm/total", "eval/loss"):
        assert shared.at(tag) == pytest.approx(alone.at(tag), rel=1e-3), tag
