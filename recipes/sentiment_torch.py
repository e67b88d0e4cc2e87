"""Provides batches, optimizer and learning-rate schedule for recipes without the Hugging Face Trainer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from sentiment import Task
from sentiment_results import scores
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import DataCollatorWithPadding, get_linear_schedule_with_warmup

Predictions = tuple[Tensor, Tensor, Tensor]
"""Sum of the losses, logits `[samples, classes]` and labels `[samples]` of a batch."""


class Shuffled(Sampler[int]):
    """This rank's indices, in an order that depends on the seed and the epoch only, not on the size of the batches."""

    def __init__(self, number: int, seed: int, rank: int, ranks: int) -> None:
        self.number, self.seed, self.rank, self.ranks = number, seed, rank, ranks
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.number / self.ranks)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch; Lightning calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.number, generator=generator).tolist()
        missing = len(self) * self.ranks - self.number  # all ranks get as many indices
        return iter([*order, *order[:missing]][self.rank :: self.ranks])


def batches(task: Task, split: str, rank: int = 0, ranks: int = 1) -> DataLoader[Any]:
    """Batches of a split: this rank's, reshuffled each epoch, for training; all of them in order otherwise."""
    training = split == "train"
    return DataLoader(
        task.encoded[split],
        batch_size=task.batch if training else 128,
        sampler=Shuffled(len(task.encoded[split]), task.seed, rank, ranks) if training else None,
        collate_fn=DataCollatorWithPadding(task.tokenizer),
        pin_memory=torch.cuda.is_available(),
    )


def total_steps(task: Task, ranks: int = 1) -> int:
    """Number of optimizer steps of the whole training."""
    if task.max_steps > 0:
        return task.max_steps
    return math.ceil(task.epochs * steps_per_epoch(task, ranks))


def steps_per_epoch(task: Task, ranks: int = 1) -> int:
    """Number of optimizer steps per epoch; the last one may have fewer batches."""
    return math.ceil(math.ceil(rows_of_rank(task, ranks) / task.batch) / task.accumulate)


def rows_of_rank(task: Task, ranks: int = 1) -> int:
    """Number of training rows that a rank sees in an epoch."""
    return math.ceil(len(task.encoded["train"]) / ranks)


def weight(task: Task, batch_index: int, batch: Any, ranks: int = 1) -> float:
    """The share of a batch in the samples of its step: mean losses with this factor add up to the step's mean."""
    samples_of_step = task.accumulate * task.batch
    earlier = batch_index // task.accumulate * samples_of_step
    return len(batch["labels"]) / min(samples_of_step, rows_of_rank(task, ranks) - earlier)


def optimizer_and_schedule(
    task: Task, model: torch.nn.Module, ranks: int = 1
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW as in the Trainer: no weight decay on biases and norms; linear warm-up, then linear decay to 0."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": task.weight_decay, "name": "decay"},
        {"params": others, "weight_decay": 0.0, "name": "no_decay"},
    ]
    optimizer = torch.optim.AdamW(groups, lr=task.lr)
    steps = total_steps(task, ranks)
    return optimizer, get_linear_schedule_with_warmup(optimizer, math.ceil(task.warmup * steps), steps)


def predictions(network: Any, batch: Any) -> Predictions:
    """Computes the network's predictions for a batch."""
    outputs = network(**batch)
    return outputs.loss * len(outputs.logits), outputs.logits, batch["labels"]


def evaluation(parts: list[Predictions]) -> dict[str, float]:
    """Loss, accuracy and F1 over all batches."""
    logits, labels = concatenate(parts)
    return {"loss": float(torch.stack([loss for loss, _, _ in parts]).sum()) / len(labels), **scores(logits, labels)}


def concatenate(parts: list[Predictions]) -> tuple[Any, Any]:
    """Logits `[samples, classes]` and labels `[samples]` of all batches, as arrays."""
    _, logits, labels = zip(*parts, strict=True)
    return torch.cat(logits).float().cpu().numpy(), torch.cat(labels).cpu().numpy()
