"""Trains ranks that hold different layers or shards of one; the tests start one process a rank."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import ConfigError, TbxLoop
from tests.helpers.limits import limit

FOLDER = Path()


def net(*layers: tuple[str, nn.Module]) -> nn.Module:
    model = nn.Sequential()
    for name, layer in layers:
        model.add_module(name, layer)
    return model


def stage(rank: int) -> nn.Module:
    torch.manual_seed(rank)
    return net(("embed", nn.Linear(5, 5))) if rank == 0 else net(("body", nn.Linear(5, 5)), ("head", nn.Linear(5, 2)))


def train(model: nn.Module, config: dict[str, Any], steps: int = 4, *, width: int = 5, each: Any = None) -> None:
    """Trains; calls `each(step, loop)` after the backward pass."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, config, log_dir=FOLDER, log_every=2) as loop:
        for step in range(1, steps + 1):
            loss = model(torch.randn(2, 4, width, generator=torch.Generator().manual_seed(step))).square().sum()
            loss.backward()
            if each is not None:
                each(step, loop)
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=2)


def somewhere(rank: int) -> None:
    """Selects by regexes that match on one stage only; two regexes match nothing on one stage."""
    metrics = [
        {"grad_norm": {"by": "total", "include": "head"}},
        {"weight_norm": {"by": {"first": "embed", "last": "head"}}},
        {"weight_histogram": {"exclude": "embed"}},
        {"activations": {"modules": "^embed$"}},
        "nonfinite",
    ]
    train(stage(rank), {"every": 2, "metrics": metrics})


def namesakes(rank: int) -> None:
    """Trains stages whose layers have the same names."""
    torch.manual_seed(rank)
    train(net(("body", nn.Linear(5, 5))), {"every": 2, "metrics": ["activations", "weight_norm", "loss"]})


def nowhere(rank: int) -> None:
    for metric in (
        {"grad_norm": {"include": "haed"}},
        {"grad_norm": {"by": {"first": "embed", "last": "haed"}}},
        {"activations": {"modules": "haed"}},
    ):
        try:
            train(stage(rank), {"every": 2, "metrics": [metric]})
        except ConfigError as error:
            print(f"refused: {error}")


def own(rank: int) -> None:
    """Logs user scalars on rank 0 alone, at steps at which no other metric is due."""
    metrics = [{"weight_norm": {"every": 4}}, {"grad_norm": {"every": 4}}, "loss"]
    train(
        DistributedDataParallel(net(("body", nn.Linear(5, 5)))),
        {"every": 3, "metrics": metrics},
        8,
        each=lambda step, loop: loop.log("own/step", step) if rank == 0 else None,
    )


def in_place(rank: int) -> None:
    torch.manual_seed(0)
    model = net(("one", nn.Linear(5, 5)), ("relu", nn.ReLU(inplace=True)), ("two", nn.Linear(5, 5)))
    train(DistributedDataParallel(model), {"every": 2, "metrics": ["activations"]})


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(self.norm(x))))


def sequence_parallel() -> nn.Module:
    parts = {
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1)),
    }
    return parallelize_module(Block(), init_device_mesh("cpu", (2,)), parts)


SUMS: dict[str, Any] = {
    "every": 2,
    "metrics": [
        {"grad_norm": {"by": "total"}},
        {"grad_norm": {"by": "layer"}},
        {"weight_norm": {"by": "layer"}},
        {"update_norm": {"by": "layer"}},
        "grad_histogram",
        "nonfinite",
        "activations",
    ],
}


def unsummed(rank: int) -> None:
    model = sequence_parallel()

    def check(step: int, loop: TbxLoop) -> None:
        assert isinstance(model.norm.weight.grad, DTensor)
        assert model.norm.weight.grad.placements[0].is_partial()

    train(model, SUMS, width=8, each=check)


def summed(rank: int) -> None:
    """Applies the remedy of the warning."""
    model = sequence_parallel()

    def add_up(step: int, loop: TbxLoop) -> None:
        for p in model.parameters():
            p.grad = p.grad.redistribute(placements=p.placements)

    train(model, SUMS, width=8, each=add_up)


if __name__ == "__main__":
    base = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=limit(60)))
    for scenario in (somewhere, namesakes, nowhere, own, in_place, unsummed, summed):
        FOLDER = base / scenario.__name__
        print(f"<{scenario.__name__}>", flush=True)
        scenario(dist.get_rank())
        print(f"</{scenario.__name__}>", flush=True)
    dist.destroy_process_group()
