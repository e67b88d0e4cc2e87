"""Trains on one of several nodes, each with folders of its own; started by torchrun."""

from __future__ import annotations

import os
from pathlib import Path

import tensorboardX
import torch
import torch.distributed as dist
from torch import nn

from tbx_callbacks import TbxLoop
from tbx_callbacks._distributed.rank import is_rank_zero

if __name__ == "__main__":
    before = is_rank_zero()
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, "full", log_dir="runs/here", log_every=1) as loop:
        for _ in range(3):
            loss = model(torch.ones(2, 4)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=2)
        writer = loop.writer
        called = 0
        if not before:
            for name in dir(tensorboardX.SummaryWriter):
                if not name.startswith("_") and callable(getattr(tensorboardX.SummaryWriter, name)):
                    getattr(writer, name)()
                    called += 1
            with writer as same:
                same.add_scalar("a/b", 1.0, 1)
        held = [link for fd in Path("/proc/self/fd").iterdir() if "tfevents" in (link := os.path.realpath(fd))]
    kind, rank = type(writer).__name__, dist.get_rank()
    print(f"rank {rank} of node {os.environ['GROUP_RANK']}: {before} {kind} {called > 20} {len(held)}", flush=True)
    dist.destroy_process_group()
