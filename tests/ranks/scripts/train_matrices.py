"""Trains a model with LoRA adapters with each strategy that the arguments name, and measures its matrices."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop

SET: Any = {"every": 2, "strict": True, "metrics": ["lora", "spectral", {"weight_norm": {"by": "total"}}]}


class Adapted(nn.Module):
    """A linear layer with a LoRA adapter, of PEFT's structure."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(8, 8).requires_grad_(False)
        self.scaling = {"default": 0.5}
        self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 8, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + self.scaling["default"] * update


def wrapped(strategy: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(Adapted(), nn.Tanh(), Adapted(), nn.Linear(8, 2))
    if strategy == "ddp":
        return DistributedDataParallel(model)
    if strategy == "fsdp":
        fully_shard(model)
    return model


def train(strategy: str, folder: Path) -> None:
    model = wrapped(strategy)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    with TbxLoop(model, optimizer, SET, log_dir=folder, log_every=2) as loop:
        for step in range(4):
            batch = torch.randn(8, 8, generator=torch.Generator().manual_seed(step))[rank::ranks]
            model(batch).square().sum(1).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step()


if __name__ == "__main__":
    to, chosen = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    logging.basicConfig(format="warning %(message)s")
    if chosen[0] != "alone":
        dist.init_process_group("gloo")
    for each in chosen:
        print(f"<{each}>", file=sys.stderr, flush=True)
        train(each, to / each)
    if dist.is_initialized():
        dist.destroy_process_group()
