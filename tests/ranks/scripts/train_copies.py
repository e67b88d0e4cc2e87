"""Trains ranks whose copies of the model part; the tests start one process a rank."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop
from tests.helpers.limits import limit

SET: dict[str, Any] = {
    "every": 1,
    "metrics": [
        "loss",
        {"grad_norm": {"by": "total"}},
        {"grad_norm": {"by": "layer"}},
        {"weight_norm": {"by": "layer"}},
        {"update_norm": {"by": "layer"}},
        {"optimizer_state": {"by": "layer"}},
        {"grad_histogram": {"by": "layer", "every": 1}},
    ],
}
FOLDER = Path()


class Net(nn.Module):
    """A layer that ranks may share, and an expert that begins as zeros."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.expert = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        nn.init.zeros_(self.expert.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.shared(inputs)
        return hidden + self.expert(hidden)


class OwnerMomentum(torch.optim.Optimizer):
    """Keeps the state of each parameter on one rank, which sends the new weights to the others."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for index, p in enumerate(p for group in self.param_groups for p in group["params"]):
            owner = index % dist.get_world_size()
            if owner == dist.get_rank():
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                p.sub_(buffer.mul_(0.9).add_(p.grad), alpha=self.defaults["lr"])
            dist.broadcast(p, owner)


def train(
    model: nn.Module, net: nn.Module, inputs: Callable[[int], torch.Tensor], optimizer: type[Any] = torch.optim.Adam
) -> None:
    adam = optimizer(net.parameters(), lr=0.01)
    with TbxLoop(model, adam, SET, log_dir=FOLDER, log_every=1) as loop:
        for step in range(1, 5):
            adam.zero_grad()
            loss = model(inputs(step)).square().mean()
            loss.backward()
            adam.step()
            loop.end_step(loss=loss, samples=2)


def data(rank: int) -> Callable[[int], torch.Tensor]:
    return lambda step: torch.randn(2, 4, generator=torch.Generator().manual_seed(10 * step + rank))


def wrapped(rank: int) -> None:
    net = Net()
    train(DistributedDataParallel(net), net, data(rank))


def forgotten(rank: int) -> None:
    net = Net()
    train(net, net, data(rank))


def same_data(rank: int) -> None:
    """Trains alike on every rank without a wrapper."""
    net = Net()
    train(net, net, data(0))


def expert(rank: int) -> None:
    """Has an expert of each rank, which is not synchronized, beside a shared layer, which is."""
    net = Net()
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, ["expert.weight"])
    train(DistributedDataParallel(net), net, data(rank))


def late(rank: int) -> None:
    """Forgets to synchronize from step 3 on."""
    net = Net()
    train(net, net, lambda step: data(rank if step >= 3 else 0)(step))


def owners(rank: int) -> None:
    net = Net()
    train(DistributedDataParallel(net), net, data(rank), OwnerMomentum)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=limit(60)))
    for scenario in sys.argv[2:]:
        FOLDER = Path(sys.argv[1]) / scenario
        print(f"<{scenario}>", flush=True)
        globals()[scenario](dist.get_rank())
        print(f"</{scenario}>", flush=True)
    dist.destroy_process_group()
