"""Fine-tune BERT for sentiment with the Lightning Trainer and log the run to TensorBoard.

Without arguments it generates labelled sentences, and trains a vocabulary and a small BERT on them, offline.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from sentiment import Task, run, start_folder
from sentiment_results import SHOWN, Outcome, evaluation_line, show_predictions
from sentiment_torch import (
    Predictions,
    batches,
    concatenate,
    evaluation,
    optimizer_and_schedule,
    predictions,
    steps_per_epoch,
    total_steps,
    weight,
)
from torch import Tensor
from tqdm.auto import tqdm

from tbx_callbacks import TbxLightningCallback

LAST, BEST = "last.ckpt", "best.ckpt"


class Sentiment(pl.LightningModule):  # type: ignore[misc]
    """A transformers classifier. Training is logged as `train/loss`, evaluation as `eval/…` and `test/…`."""

    def __init__(self, task: Task, callback: TbxLightningCallback) -> None:
        super().__init__()
        self.task, self.network, self.callback = task, task.network, callback
        self.save_hyperparameters(
            {"lr": task.lr, "batch": task.batch, "accumulate": task.accumulate, "seed": task.seed}, logger=False
        )
        self._predictions: list[Predictions] = []
        self._weight = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        self._weight = weight(self.task, batch_idx, batch, self.trainer.world_size)
        loss: Tensor = self.network(**batch).loss
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Computes gradients of the mean loss of a step, whose last batches may be fewer and smaller than usual."""
        super().backward(loss * self.task.accumulate * self._weight, *args, **kwargs)  # Lightning divides it

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Collects the predictions, because F1 is not a mean over batches."""
        self._predictions.append(predictions(self.network, batch))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of the dev split."""
        self._log_scores("dev", "eval")

    def on_test_epoch_end(self) -> None:
        """Logs the scores of the test split."""
        self._log_scores("test", "test")

    def configure_optimizers(self) -> Any:
        """AdamW with a linear schedule."""
        optimizer, schedule = optimizer_and_schedule(self.task, self.network, self.trainer.world_size)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _log_scores(self, split: str, family: str) -> None:
        self.log_dict(
            {f"{family}/{name}": value for name, value in evaluation(self._predictions).items()}, sync_dist=True
        )
        show_predictions(self.callback, self.task.rows[split], *concatenate(self._predictions), family)
        self._predictions = []


class Evaluations(Callback):  # type: ignore[misc]
    """Prints one line per evaluation, tracks the best one, and saves.

    ModelCheckpoint would miss an evaluation after the last step.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.folder = task, task.output_dir
        self.step = -1
        self.best: dict[str, float] | None = None

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Records the scores of the finished evaluation."""
        dev = {name: float(trainer.callback_metrics[f"eval/{name}"]) for name in SHOWN}
        self.step = trainer.global_step
        if trainer.is_global_zero:
            epoch = self.step / steps_per_epoch(self.task, trainer.world_size)
            tqdm.write(evaluation_line(self.step, epoch, dev))
        if self.best is None or dev["accuracy"] > self.best["accuracy"]:
            self.best = dev
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        trainer.save_checkpoint(self.folder / LAST)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a resumed training."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state from a checkpoint."""
        self.best = state_dict["best"]


def train(task: Task) -> Outcome | None:
    """Trains with the Lightning Trainer; evaluates and saves at the end of each epoch."""
    callback = TbxLightningCallback(task.config)
    evaluations = Evaluations(task)
    if task.checkpoint is None:
        task.network.save_pretrained(start_folder(task.output_dir))
        task.tokenizer.save_pretrained(start_folder(task.output_dir))
    devices = os.environ.get("LOCAL_WORLD_SIZE")  # of torchrun, which Lightning does not read on CPUs
    trainer = pl.Trainer(
        devices=int(devices) if devices else "auto",
        num_nodes=int(os.environ["WORLD_SIZE"]) // int(devices) if devices else 1,
        default_root_dir=task.output_dir,
        max_epochs=-1,
        accumulate_grad_batches=task.accumulate,
        gradient_clip_val=task.max_grad_norm,
        log_every_n_steps=task.logging_steps,
        callbacks=[callback, evaluations, TQDMProgressBar(refresh_rate=10)],
        logger=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the training's own sampler shares the rows; every rank evaluates all of them
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit_loop.epoch_loop.max_steps = total_steps(task, trainer.world_size)
    module, dev = Sentiment(task, callback), batches(task, "dev")
    training_batches = batches(task, "train", trainer.global_rank, trainer.world_size)
    trainer.fit(module, training_batches, dev, ckpt_path=task.checkpoint)
    if evaluations.step != trainer.global_step:  # the last epoch is incomplete
        trainer.validate(module, dev, verbose=False)
    test = None
    if "test" in task.encoded:
        (logged,) = trainer.test(module, batches(task, "test"), ckpt_path=task.output_dir / BEST, verbose=False)
        test = {name: logged[f"test/{name}"] for name in SHOWN}
    if not trainer.is_global_zero:
        return None
    return Outcome(trainer.global_step, callback.log_dir or "", evaluations.best, test)


def find(folder: Path) -> Path | None:
    """The newest checkpoint."""
    return folder / LAST if (folder / LAST).is_file() else None


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="lightning")  # warnings about num_workers, and torch's deprecations
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    run(train, find, __doc__)
