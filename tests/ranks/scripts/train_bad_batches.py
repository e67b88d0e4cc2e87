"""Trains on ranks that share or shard the model, and keeps batches of bad steps: one row breaks the loss.

Arguments: the folder of the runs.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop
from tests.helpers.data import collate, rows
from tests.helpers.models import bert

SET: dict[str, Any] = {"every": 2, "strict": True, "metrics": ["loss", "bad_batches", "examples"]}
STEPS, BATCH, BAD_STEP = 4, 4, 3


def train(folder: Path, kind: str, factor: float) -> None:
    """In the third step the loss of rank 1 is multiplied by a number."""
    model: Any = bert()
    if kind == "ddp":
        wrapped = DistributedDataParallel(model)
    elif kind == "tp":
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))
        for layer in model.bert.encoder.layer:
            parallelize_module(
                layer, mesh, {"intermediate.dense": ColwiseParallel(), "output.dense": RowwiseParallel()}
            )
        wrapped = model
    else:
        shape = (2, 1) if kind == "hsdp" else (2,)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
        for layer in model.bert.encoder.layer:
            fully_shard(layer, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    made = [{**row, "idx": n} for n, row in enumerate(rows(STEPS * BATCH * 2))]
    rank = dist.get_rank()
    with TbxLoop(wrapped, optimizer, SET, log_dir=folder) as loop:
        for step in range(1, STEPS + 1):
            start = (step - 1) * 2 * BATCH
            first = 0 if kind == "tp" else rank  # ranks that share a layer have the same rows
            batch = collate(made[start + first : start + 2 * BATCH : 2])
            out = wrapped(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
            loss = out.loss * (factor if (rank == 1 or kind == "tp") and step == BAD_STEP else 1.0)
            loss.backward()
            if step == BAD_STEP:  # so that later steps are fine
                saved = [parameter.detach().clone() for parameter in model.parameters()]
            optimizer.step()
            if step == BAD_STEP:
                with torch.no_grad():
                    for parameter, old in zip(model.parameters(), saved, strict=True):
                        parameter.copy_(old)
            optimizer.zero_grad()
            loop.end_step(loss=loss, outputs=out, labels=batch["labels"], batch=batch)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    dist.init_process_group("gloo")
    for each in ("ddp", "fsdp", "hsdp", "tp"):
        train(Path(sys.argv[1], each), each, float("nan"))
    dist.destroy_process_group()
