"""Trains with Lightning and our callback, or with Lightning's own TensorBoardLogger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.diagnosis_runs.cases import Facts, Logs, Place
from benchmarks.diagnosis_runs.checks_before import Checks, checked
from benchmarks.diagnosis_runs.data import Pair, dice
from tbx_callbacks import TbxLightningCallback

Configure = Callable[[nn.Module], Any]
Loss = Callable[[Tensor, Tensor], Tensor]


class Module(lightning.LightningModule):
    """A network with its loss; a fault overrides the method that it gets wrong."""

    def __init__(self, net: nn.Module, configure: Configure, loss: Loss = functional.cross_entropy) -> None:
        super().__init__()
        self.net, self.loss, self._configure = net, loss, configure
        self.losses: list[float] = []
        self.evaluations: list[float] = []
        self.accuracies: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        outputs = self(x)
        loss = self.loss(outputs, y)
        self.log("train_loss", loss)
        self.losses.append(float(loss))
        return {"loss": loss, "logits": outputs}

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        outputs = self(x)
        loss = self.loss(outputs, y)
        self.log("val_loss", loss)
        self.evaluations.append(float(loss))
        if y.dtype == torch.long:
            right = (outputs.argmax(-1) == y).float().mean()
            self.log("val_acc", right)
            self.accuracies.append(float(right))

    def configure_optimizers(self) -> Any:
        return self._configure(self)


def every_step(optimizer: torch.optim.Optimizer, schedule: Any) -> dict[str, Any]:
    """What `configure_optimizers` returns for a schedule that advances with every step."""
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(
    place: Place,
    module: Module,
    train: Pair,
    dev: Pair,
    *,
    logs: Logs = "full",
    steps: int = 160,
    batch: int = 16,
    callbacks: Sequence[lightning.Callback] = (),
    **options: Any,
) -> Facts:
    """Trains and evaluates every 20 steps; `options` are further arguments of the Lightning Trainer."""
    loader = DataLoader(TensorDataset(*train), batch, shuffle=True, drop_last=True, generator=dice(place.seed))
    dev_loader = DataLoader(TensorDataset(*dev), len(dev[0]))
    monitors: list[Any]
    if logs == "own":
        logger: Any = TensorBoardLogger(str(place.folder.parent), name=place.folder.name, version="")
        monitors = [LearningRateMonitor("step")]
    else:
        logger = False
        monitors = [TbxLightningCallback({"extends": logs, "rules": {"others": "warn"}}, log_dir=str(place.folder))]
    trainer = lightning.Trainer(
        max_steps=steps,
        logger=logger,
        callbacks=[*monitors, *callbacks],
        accelerator="cpu",
        log_every_n_steps=4,
        val_check_interval=20,
        check_val_every_n_epoch=None,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        default_root_dir=str(place.work),
        **options,
    )
    found = Checks()
    if logs == "full":
        found = checked(lambda: monitors[0].preflight(module, loader, evaluation=dev_loader))
        module.losses.clear()  # of the checks
    trainer.fit(module, loader, dev_loader)
    return Facts(
        first=float(np.mean(module.losses[:4])),
        last=float(np.mean(module.losses[-16:])),
        eval_loss=module.evaluations[-1],
        best_eval=min(module.evaluations),
        accuracy=module.accuracies[-1] if module.accuracies else None,
        is_live=logs != "own",
        preflight=found.findings,
        preflight_failed=found.failed,
    )
