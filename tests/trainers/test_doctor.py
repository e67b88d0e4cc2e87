"""Tests the doctor on runs that the trainers' own loggers wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from tests.helpers.commands import run
from tests.helpers.models import trainer


def test_doctor_run_of_huggingface_callback_finds_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "hf"))
    settings = {
        "max_steps": 40,
        "logging_steps": 1,
        "warmup_steps": 4,
        "learning_rate": 1e9,
        "report_to": "tensorboard",
    }
    trainer(tmp_path / "out", max_grad_norm=0.0, **settings).train()
    done = run("doctor", str(tmp_path / "hf"))
    assert done.returncode == 1, done.stdout
    assert "learning_rate_too_high" in done.stdout or "nonfinite" in done.stdout


@pytest.mark.filterwarnings("ignore")  # Lightning's warnings about settings that suit tests
def test_doctor_run_of_lightning_logger_finds_fault(tmp_path: Path) -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 2)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            loss = self.linear(batch).square().mean() * (float("nan") if batch_idx == 20 else 1.0)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    logger = TensorBoardLogger(tmp_path, name="pl", version="one")
    run_ = pl.Trainer(max_steps=40, log_every_n_steps=1, logger=logger, enable_checkpointing=False, **quiet)
    run_.fit(Module(), torch.utils.data.DataLoader(torch.randn(80, 4), batch_size=2))
    done = run("doctor", str(tmp_path / "pl"), "--json")
    assert done.returncode == 1, done.stdout
    (one,) = json.loads(done.stdout)["runs"]
    (found,) = [finding for finding in one["findings"] if finding["id"] == "nonfinite"]
    assert found["steps"][0] == 20  # Lightning's own steps begin with 0
