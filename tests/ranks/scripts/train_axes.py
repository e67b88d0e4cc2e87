"""Trains two ranks with batches of different sizes, with a samples axis. Run as: train_axes.py FOLDER"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop

if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    size = 3 + dist.get_rank()
    metrics = {"axis": ["step", "samples"], "metrics": ["loss", {"weight_norm": {"by": "total"}}]}
    with TbxLoop(model, optimizer, metrics, log_dir=sys.argv[1], log_every=2) as loop:
        for _ in range(4):
            loss = model(torch.randn(size, 4)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=size)
    dist.destroy_process_group()
