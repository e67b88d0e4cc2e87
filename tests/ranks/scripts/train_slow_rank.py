"""Trains on several ranks, where rank 1 waits for its data, and nothing else.

Arguments: the folder of the run.
"""

from __future__ import annotations

import logging
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop

if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def batches() -> object:
        for _ in range(8):
            if dist.get_rank() == 1:
                time.sleep(0.2)
            yield torch.randn(4, 8)

    metrics = {"every": 2, "metrics": ["time"], "rules": {"slow_rank": {"steps": 4, "min_points": 3}}}
    with TbxLoop(model, optimizer, metrics, log_dir=sys.argv[1]) as loop:
        for batch in loop.track(batches()):
            model(batch).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step()
    dist.destroy_process_group()
