"""Trains on two ranks whose rows have different lengths.

Arguments: the folder of the run.
"""

from __future__ import annotations

import logging
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop

LENGTHS = [[[3, 9], [9, 3]], [[1, 8], [2, 7]]]  # by rank and batch
WIDTH = 10


def mask(lengths: list[int]) -> torch.Tensor:
    return (torch.arange(WIDTH)[None] < torch.tensor(lengths)[:, None]).long()


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(WIDTH, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, {"every": 2, "metrics": ["padding"]}, log_dir=sys.argv[1]) as loop:
        for lengths in LENGTHS[dist.get_rank()]:
            model(mask(lengths).float()).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(tokens=mask(lengths))
    dist.destroy_process_group()
