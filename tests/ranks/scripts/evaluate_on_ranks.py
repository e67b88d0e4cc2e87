"""Evaluates at steps where ranks could disagree; the tests start one process a rank."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop
from tbx_callbacks.metrics import Context, Max, Metric, Select, Sum, Values
from tests.helpers.limits import limit


@dataclass(frozen=True)
class LargestUpdate(Metric):
    """Largest absolute update; only rank 0 counts the elements of replicas."""

    tags: ClassVar[dict[str, str]] = {"largest_update/{group}": "", "elements/{group}": ""}
    needs: ClassVar[frozenset[str]] = frozenset({"weights_before"})
    select: ClassVar[Select | None] = Select(by="total")

    def __call__(self, context: Context) -> Values:
        assert context.updates is not None
        return {
            "largest_update/{group}": Max(context.max_by_group(context.updates, lambda update: update.abs().max())),
            "elements/{group}": Sum(context.sum_by_group(context.updates, torch.numel)),
        }


LargestUpdate.__module__ = "evaluate_on_ranks"
sys.modules["evaluate_on_ranks"] = sys.modules[__name__]


def main(folder: Path) -> None:
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config: dict[str, Any] = {
        "extends": "default",
        "rules": {"every": 5},
        "metrics": ["evaluate_on_ranks.LargestUpdate"],
    }
    with TbxLoop(model, optimizer, config, log_dir=folder, log_every=2) as loop:
        loop.evaluate(accuracy=0.0)  # on every rank, before the first step
        for step in range(1, 13):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=torch.tensor(float("nan") if rank == 1 and step == 9 else 1.0), samples=1)
            if step in (3, 5, 6):
                loop.evaluate(accuracy=step / 10)
            if step in (7, 10) and rank == 0:
                loop.evaluate(accuracy=step / 10)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=limit(60)))
    main(Path(sys.argv[1]))
    dist.destroy_process_group()
