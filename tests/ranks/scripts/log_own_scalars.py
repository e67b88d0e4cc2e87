"""Logs scalars of the user's own on several ranks; the tests start one process a rank."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop

SET = {"every": 2, "metrics": ["loss", {"weight_norm": {"by": "total", "every": 5}}]}


def main(folder: Path) -> None:
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=folder, log_every=3) as loop:
        for step in range(1, 8):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            for _ in range(rank + 1):  # weighted by the number of values
                loop.log("own/both", float(10 * step + rank))
            if rank == 1:
                loop.log("own/late", float(step)) if step > 4 else None
            loop.end_step(loss=torch.ones(()), samples=1)
            if step in (3, 6, 7):
                model.eval()
                loop.log("own/both", 1000.0 * step + rank)
                if rank == 1:
                    loop.log("own/rank_1", torch.tensor(float(step)))
                loop.evaluate(accuracy=0.5)
                model.train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(format="warning %(message)s")
    dist.init_process_group("gloo")
    main(Path(sys.argv[1]))
    dist.destroy_process_group()
