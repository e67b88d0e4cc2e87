"""Trains BERTs under the Trainer on several ranks, attached or not, and with batches that rank 1 cannot count.

Arguments: the folder of the runs.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import trainer

SET = {"every": 1, "metrics": ["loss", "throughput"]}


class Odd:
    def __init__(self, batch: Any) -> None:
        self.parts = lambda: batch


class OddOnOne(Trainer):
    """On rank 1 the batches are objects that hold nothing to count."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().training_step(model, inputs.parts() if isinstance(inputs, Odd) else inputs, *args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)
        return [Odd(batch) if dist.get_rank() == 1 else batch for batch in batches], items

    def floating_point_ops(self, inputs: Any) -> int:
        return 0


def train(folder: Path, name: str, *, attached: bool, accumulate: int, cls: type[Trainer] = Trainer) -> None:
    callback = TbxTrainerCallback(SET, log_dir=folder / name)
    args = {"gradient_accumulation_steps": accumulate, "max_steps": 4, "logging_steps": 1}
    run = trainer(folder / "out", cls=cls, callbacks=[callback], **args)
    run.train_dataset, run.data_collator = rows(64), collate
    if attached:
        callback.attach(run)
    print(f"training {name}", flush=True)
    run.train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    base = Path(sys.argv[1])
    for attached in (False, True):
        for accumulate in (1, 2):
            train(base, f"{'attached' if attached else 'plain'}-{accumulate}", attached=attached, accumulate=accumulate)
    train(base, "odd", attached=True, accumulate=1, cls=OddOnOne)
