"""Trains a module that logs the tag of a metric, under Lightning on several ranks; see train_with_trainers.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from tbx_callbacks import TbxLightningCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import bert

METRICS = ["loss", {"grad_norm": {"by": "total"}}, "train_accuracy"]


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = bert()

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.log("train/accuracy", 0.5)
        return self.net(**batch).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


def train(folder: Path) -> None:
    trained = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=8,
        log_every_n_steps=2,
        callbacks=[TbxLightningCallback({"every": 2, "metrics": METRICS}, log_dir=folder)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trained.fit(Module(), DataLoader(rows(64), batch_size=2, collate_fn=collate))
