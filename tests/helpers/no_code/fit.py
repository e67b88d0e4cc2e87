"""Trains a small model with LightningCLI; all options come from the command line or a YAML file."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn


class Classifier(pl.LightningModule):
    """A linear classifier."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("my_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)


class Points(pl.LightningDataModule):
    """Random points; the label is the sign of the first coordinate."""

    def train_dataloader(self) -> Any:
        points = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
        dataset = torch.utils.data.TensorDataset(points, (points[:, 0] > 0).long())
        return torch.utils.data.DataLoader(dataset, batch_size=4)

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


def main() -> None:
    """Trains as the command line says."""
    LightningCLI(Classifier, Points, seed_everything_default=1, save_config_callback=None)


if __name__ == "__main__":
    main()
