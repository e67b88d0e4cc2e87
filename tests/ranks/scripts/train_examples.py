"""Trains in a loop and under the Trainer, and records rows: each rank has every n-th row of each batch.

Arguments: the folder of the runs.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop, TbxTrainerCallback
from tests.helpers.data import collate, rows
from tests.helpers.models import bert, trainer

SET: dict[str, Any] = {"every": 2, "strict": True, "metrics": ["loss", {"examples": {"group_by": "source"}}]}
ROWS, BATCH, EPOCHS = 20, 8, 3


def train(folder: Path, steps: range, rank: int, ranks: int) -> None:
    """Trains those steps of three epochs; the last batch of an epoch has 4 rows, and all have ids and a source."""
    made = [{**row, "idx": n, "source": n % 3} for n, row in enumerate(rows(ROWS))]
    model: Any = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    wrapped = DistributedDataParallel(model) if ranks > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # a resumed training needs no checkpoint
    order, step = torch.Generator().manual_seed(0), 0
    with TbxLoop(wrapped, optimizer, SET, log_dir=folder, start_step=steps.start - 1) as loop:
        for _ in range(EPOCHS):
            for chosen in torch.randperm(ROWS, generator=order).split(BATCH):
                step += 1
                if step in steps:
                    batch = collate([made[n] for n in chosen[rank::ranks]])
                    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
                    out = wrapped(**inputs)
                    out.loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    loop.end_step(loss=out.loss, outputs=out, labels=batch["labels"], batch=batch)


def train_with_trainer(folder: Path) -> None:
    callback = TbxTrainerCallback({"every": 2, "metrics": ["examples"]}, log_dir=folder)
    run = trainer(
        folder.parent / "out", callbacks=[callback], max_steps=-1, num_train_epochs=2, per_device_train_batch_size=4
    )
    run.train_dataset = rows(32)
    callback.attach(run)
    run.train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    target = Path(sys.argv[1])
    several = len(sys.argv) > 2
    if several:
        dist.init_process_group("gloo")
    place = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    train(target / "loop", range(1, 10), *place)
    train(target / "resumed", range(1, 8), *place)
    if several:
        dist.barrier()
    train(target / "resumed", range(5, 10), *place)
    train_with_trainer(target / "trainer")
    if several:
        dist.destroy_process_group()
