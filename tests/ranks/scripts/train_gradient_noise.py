"""Trains a small model on several ranks, in several ways, and prints what each rank's micro-batches were.

Arguments: the folder of the runs.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop

SIZE, STEPS = 4, 3


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(step: int, number: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(100 * step + 10 * number + rank)
    inputs = torch.randn(SIZE, 6, generator=made) + 0.5
    return inputs, (inputs[:, 0] > 0).long()


def train(folder: Path, way: str, *, accumulate: int) -> None:
    net = model()
    if way == "ddp":
        net = DistributedDataParallel(net)
    elif way == "fsdp":
        fully_shard(net)
    elif way == "hsdp":
        fully_shard(net, mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard")))
    elif way == "tp":
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        parallelize_module(net, init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",)), plan)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    metrics = {"every": 1, "metrics": [{"gradient_noise": {"decay": 0.0}}]}
    with TbxLoop(net, optimizer, metrics, log_dir=folder / f"{way}-{accumulate}") as loop:
        for step in range(STEPS):
            for number in range(accumulate):
                inputs, labels = batch(step, number, 0 if way == "tp" else dist.get_rank())
                is_last = number == accumulate - 1
                waits = way == "ddp" and not is_last
                with net.no_sync() if waits else contextlib.nullcontext():
                    (nn.functional.cross_entropy(net(inputs), labels) / accumulate).backward()
                if is_last:
                    optimizer.step()
                    optimizer.zero_grad()
                loop.end_step(samples=SIZE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    dist.init_process_group("gloo")
    for way, accumulate in (("ddp", 2), ("ddp", 1), ("alone", 2), ("fsdp", 2), ("hsdp", 2), ("tp", 2)):
        print(f"training {way}-{accumulate}", flush=True)
        train(Path(sys.argv[1]), way, accumulate=accumulate)
    dist.destroy_process_group()
