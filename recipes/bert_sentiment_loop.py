"""Fine-tune BERT for sentiment in a plain PyTorch loop and log the run to TensorBoard.

Without arguments it makes its own labelled sentences, trains a vocabulary and a small BERT on them, offline.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from sentiment import Task, run
from sentiment_results import Outcome, Scores, evaluation_line, show_predictions
from sentiment_torch import (
    batches,
    evaluation,
    joined,
    optimizer_and_schedule,
    predictions,
    steps_per_epoch,
    total_steps,
)
from torch import Tensor, nn
from tqdm.auto import tqdm

from tbx_callbacks import TbxLoop

CHECKPOINT, STATE = "checkpoint", "training.pt"


class Training:
    """The state of a training: what a checkpoint holds."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = task.network.to(self.device)
        self.optimizer, self.schedule = optimizer_and_schedule(task, self.network)
        self.step = 0
        self.log_dir: str | None = str(task.output_dir / "runs" / time.strftime("%b%d_%H-%M-%S"))
        self.best: Scores | None = None
        self.best_weights: dict[str, Tensor] = {}
        if task.checkpoint is not None:
            kept = torch.load(task.checkpoint / STATE, map_location=self.device)
            self.optimizer.load_state_dict(kept["optimizer"])
            self.schedule.load_state_dict(kept["schedule"])
            self.step, self.log_dir = kept["step"], kept["log_dir"]
            self.best, self.best_weights = kept["best"], kept["best_weights"]

    def shuffled(self, loader: Any, epoch: int) -> Any:
        """The loader, in the order of this epoch, which does not depend on whether the training was resumed."""
        loader.generator.manual_seed(self.task.seed + epoch)
        return loader

    def keep(self, step: int, dev: Scores) -> None:
        """Keeps the best weights, and writes a checkpoint beside the last one before it takes its place."""
        self.step = step
        if self.best is None or dev["accuracy"] > self.best["accuracy"]:
            self.best = dev
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        folder, draft = self.task.output_dir / CHECKPOINT, self.task.output_dir / f"{CHECKPOINT}.new"
        self.network.save_pretrained(draft)
        self.task.tokenizer.save_pretrained(draft)
        names = ("step", "log_dir", "best", "best_weights")
        states = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        torch.save({**{name: getattr(self, name) for name in names}, **states}, draft / STATE)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)

    def evaluate(self, split: str, loop: TbxLoop) -> dict[str, float]:
        """Loss, accuracy and F1 of a split; the loop logs views of the predictions."""
        self.network.eval()
        with torch.no_grad():
            found = [predictions(self.network, batch.to(self.device)) for batch in batches(self.task, split)]
        self.network.train()
        show_predictions(loop, self.task.rows[split], *joined(found), "eval" if split == "dev" else split)
        return evaluation(found)


def train(task: Task) -> Outcome:
    """Trains in a loop, evaluates and saves at each epoch's end."""
    training, loader, steps = Training(task), batches(task, "train"), total_steps(task)
    network, optimizer, schedule = training.network, training.optimizer, training.schedule
    options: dict[str, Any] = {"log_every": task.logging_steps, "max_grad_norm": task.max_grad_norm}
    options |= {"hparams": hparams(task), "log_dir": training.log_dir, "start_step": training.step}
    network.train()
    with (
        TbxLoop(network, optimizer, task.config, **options) as loop,
        tqdm(total=steps, initial=loop.step, unit="step") as bar,
    ):
        training.log_dir = loop.log_dir
        while loop.step < steps and not loop.should_stop:
            epoch, done = divmod(loop.step, steps_per_epoch(task))
            for place, batch in enumerate(training.shuffled(loader, epoch)):
                window = place // task.accumulate
                if window < done:  # trained on before the checkpoint
                    continue
                loss = network(**batch.to(training.device)).loss
                (loss / min(task.accumulate, len(loader) - window * task.accumulate)).backward()
                if (place + 1) % task.accumulate == 0 or place + 1 == len(loader):
                    loop.before_clip()
                    nn.utils.clip_grad_norm_(network.parameters(), task.max_grad_norm)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                    bar.update()
                loop.end_step(loss=loss, samples=len(batch["labels"]), tokens=batch["attention_mask"].sum())
                if loop.step == steps or loop.should_stop:
                    break
            dev = training.evaluate("dev", loop)
            loop.evaluate(**dev)
            tqdm.write(evaluation_line(loop.step, loop.step / steps_per_epoch(task), dev))
            training.keep(loop.step, dev)
        test = None
        if "test" in task.encoded:
            network.load_state_dict(training.best_weights)
            test = training.evaluate("test", loop)
            for name, value in test.items():
                loop.log(f"test/{name}", value)
    return Outcome(loop.step, training.log_dir or "", training.best, test)


def hparams(task: Task) -> dict[str, float]:
    """What the HParams tab compares."""
    return {"lr": task.lr, "batch": task.batch, "accumulate": task.accumulate, "seed": task.seed}


def find(folder: Path) -> Path | None:
    """The newest checkpoint."""
    return folder / CHECKPOINT if (folder / CHECKPOINT / STATE).is_file() else None


if __name__ == "__main__":
    run(train, find, __doc__)
