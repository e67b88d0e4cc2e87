"""Train a small vision transformer on scikit-learn's digits with Lightning and log the run to TensorBoard.

The images come with scikit-learn, so nothing is downloaded.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
import typer
from recipe_run import Batch, Config, Output, Rate, Seed, Steps, finish, new_folder, start
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import ViTConfig, ViTForImageClassification, get_cosine_schedule_with_warmup

from tbx_callbacks import TbxLightningCallback, load_config, log_predictions


class Digits(pl.LightningModule):  # type: ignore[misc]
    """A vision transformer for 8 x 8 images in 10 classes."""

    def __init__(self, callback: TbxLightningCallback, lr: float, steps: int, head_size: int, layers: int) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": lr, "head_size": head_size, "layers": layers}, logger=False)
        sizes = {"hidden_size": 4 * head_size, "intermediate_size": 8 * head_size, "num_hidden_layers": layers}
        shape = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
        self.network = ViTForImageClassification(ViTConfig(**sizes, **shape, num_attention_heads=4))
        self.callback, self.lr, self.steps = callback, lr, steps
        self._predictions: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        loss: Tensor = self.network(pixel_values=batch[0], labels=batch[1]).loss
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Collects the predictions for a batch."""
        self._predictions.append((self.network(pixel_values=batch[0]).logits, batch[1]))

    def on_validation_epoch_end(self) -> None:
        """Logs the scores and views of the predictions."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._predictions, strict=True))
        accuracy = (logits.argmax(-1) == labels).float().mean()
        self.log_dict({"eval/loss": nn.functional.cross_entropy(logits, labels), "eval/accuracy": accuracy})
        log_predictions(self.callback, logits, labels)
        self._predictions = []

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up and a cosine decay."""
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.01)
        schedule = get_cosine_schedule_with_warmup(optimizer, self.steps // 10, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main(
    config: Config = "default",
    max_steps: Steps = 500,
    lr: Rate = 2e-3,
    batch: Batch = 64,
    head_size: Annotated[int, typer.Option(min=1, max=1000, help="Size of each of the 4 heads.")] = 16,
    layers: Annotated[int, typer.Option(min=1, max=1000, help="Layers.")] = 4,
    precision: Annotated[str, typer.Option(help="Precision of Lightning, such as bf16-mixed.")] = "32-true",
    seed: Seed = 0,
    output_dir: Output = Path("outputs/image_classification"),
) -> None:
    """Train, evaluate every 100 steps, and compare with the largest class and with a linear model."""
    started = time.time()
    load_config(config)  # report configuration errors before any work
    pl.seed_everything(seed, verbose=False)
    digits = load_digits()
    pixels, labels = digits.data / 16, digits.target
    train_x, dev_x, train_y, dev_y = train_test_split(pixels, labels, test_size=400, random_state=seed, stratify=labels)
    train, dev = (
        TensorDataset((torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) - 0.5) * 2, torch.tensor(y))
        for x, y in ((train_x, train_y), (dev_x, dev_y))
    )
    callback = TbxLightningCallback(config, log_dir=new_folder(output_dir))
    module = Digits(callback, lr, max_steps, head_size, layers)
    batches = DataLoader(train, batch, shuffle=True, drop_last=len(train) > batch)
    trainer = pl.Trainer(
        max_epochs=-(-max_steps // len(batches)),
        max_steps=max_steps,
        precision=precision,
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        val_check_interval=min(100, max_steps),
        check_val_every_n_epoch=None,
        callbacks=[callback],
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches, DataLoader(dev, 400))
    loss, accuracy = (float(trainer.callback_metrics[f"eval/{name}"]) for name in ("loss", "accuracy"))
    linear = LogisticRegression(max_iter=1000).fit(train_x, train_y).score(dev_x, dev_y)
    results = {"vision transformer": (loss, accuracy), "linear model": (math.nan, linear)}
    results["largest class"] = (math.nan, max((dev_y == digit).mean() for digit in range(10)))
    columns = ("loss", "accuracy")
    finish(callback.log_dir, steps=trainer.global_step, started=started, columns=columns, rows=results)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="lightning")  # warnings about num_workers, and torch's deprecations
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    start(main, __doc__)
