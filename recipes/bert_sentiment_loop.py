"""Fine-tune BERT for sentiment in a plain PyTorch loop and log the run to TensorBoard.

Without arguments it generates labelled sentences, and trains a vocabulary and a small BERT on them, offline.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sentiment import Task, run
from sentiment_results import Outcome, Scores, evaluation_line, show_predictions
from sentiment_torch import (
    batches,
    concatenate,
    evaluation,
    optimizer_and_schedule,
    predictions,
    steps_per_epoch,
    total_steps,
    weight,
)
from torch import Tensor, nn
from tqdm.auto import tqdm

from tbx_callbacks import TbxLoop

CHECKPOINT, STATE = "checkpoint", "training.pt"


class Training:
    """The state of a training, as stored in a checkpoint. Started by torchrun, each rank trains on its share."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.ranks, self.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        self.device = torch.device(gpu if torch.cuda.is_available() else "cpu")
        self.network = self.model = task.network.to(self.device)
        if self.ranks > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            self.model = nn.parallel.DistributedDataParallel(self.network)
        self.optimizer, self.schedule = optimizer_and_schedule(task, self.network, self.ranks)
        self.step = 0
        self.log_dir: str | None = str(task.output_dir / "runs" / time.strftime("%b%d_%H-%M-%S"))
        self.best: Scores | None = None
        self.best_weights: dict[str, Tensor] = {}
        if task.checkpoint is not None:
            state = torch.load(task.checkpoint / STATE, map_location=self.device)
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.step, self.log_dir = state["step"], state["log_dir"]
            self.best, self.best_weights = state["best"], state["best_weights"]

    def shuffle(self, loader: Any, epoch: int) -> Any:
        """The loader in the order of this epoch, which is the same in a resumed training."""
        loader.sampler.set_epoch(epoch)
        return loader

    def forward(self, batch: Any, *, is_last: bool) -> Any:
        """The outputs for a batch; gradients of ranks are averaged with the last batch of a step only."""
        waits = self.ranks > 1 and not is_last
        with self.model.no_sync() if waits else contextlib.nullcontext():
            return self.model(**batch)

    def save_checkpoint(self, step: int, dev: Scores) -> None:
        """Keeps the best weights, and writes a checkpoint; it replaces the previous one once it is complete."""
        self.step = step
        if self.best is None or dev["accuracy"] > self.best["accuracy"]:
            self.best = dev
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        if self.rank > 0:
            return
        folder, new_folder = self.task.output_dir / CHECKPOINT, self.task.output_dir / f"{CHECKPOINT}.new"
        self.network.save_pretrained(new_folder)
        self.task.tokenizer.save_pretrained(new_folder)
        names = ("step", "log_dir", "best", "best_weights")
        states = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        torch.save({**{name: getattr(self, name) for name in names}, **states}, new_folder / STATE)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new_folder, folder)

    def evaluate(self, split: str, loop: TbxLoop) -> dict[str, float]:
        """Computes loss, accuracy and F1 of a split; the loop logs views of the predictions."""
        self.network.eval()
        with torch.no_grad():
            parts = [predictions(self.network, batch.to(self.device)) for batch in batches(self.task, split)]
        self.network.train()
        show_predictions(loop, self.task.rows[split], *concatenate(parts), "eval" if split == "dev" else split)
        return evaluation(parts)


def train(task: Task) -> Outcome | None:
    """Trains in a plain loop; evaluates and saves at the end of each epoch."""
    training = Training(task)
    rank, ranks = training.rank, training.ranks
    loader = batches(task, "train", rank, ranks)
    steps, epoch_steps = total_steps(task, ranks), steps_per_epoch(task, ranks)
    network, optimizer, schedule = training.network, training.optimizer, training.schedule
    options: dict[str, Any] = {"log_every": task.logging_steps, "max_grad_norm": task.max_grad_norm}
    options |= {"hparams": hparams(task), "log_dir": training.log_dir, "start_step": training.step}
    network.train()
    with (
        TbxLoop(training.model, optimizer, task.config, **options) as loop,
        tqdm(total=steps, initial=loop.step, unit="step", disable=rank > 0) as bar,
    ):
        training.log_dir = loop.log_dir or training.log_dir
        while loop.step < steps and not loop.should_stop:
            epoch, finished_windows = divmod(loop.step, epoch_steps)
            for index, batch in enumerate(training.shuffle(loader, epoch)):
                window = index // task.accumulate
                if window < finished_windows:  # already trained on before the checkpoint
                    continue
                is_last = (index + 1) % task.accumulate == 0 or index + 1 == len(loader)
                loss = training.forward(batch.to(training.device), is_last=is_last).loss
                (loss * weight(task, index, batch, ranks)).backward()
                if is_last:
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
            if rank == 0:
                tqdm.write(evaluation_line(loop.step, loop.step / epoch_steps, dev))
            training.save_checkpoint(loop.step, dev)
        test = None
        if "test" in task.encoded:
            network.load_state_dict(training.best_weights)
            test = training.evaluate("test", loop)
            for name, value in test.items():
                loop.log(f"test/{name}", value)
    if ranks > 1:
        dist.destroy_process_group()
    return Outcome(loop.step, training.log_dir or "", training.best, test) if rank == 0 else None


def hparams(task: Task) -> dict[str, float]:
    """The hyper-parameters for the HParams tab."""
    return {"lr": task.lr, "batch": task.batch, "accumulate": task.accumulate, "seed": task.seed}


def find(folder: Path) -> Path | None:
    """The newest checkpoint."""
    return folder / CHECKPOINT if (folder / CHECKPOINT / STATE).is_file() else None


if __name__ == "__main__":
    run(train, find, __doc__)
