"""Trains each `<strategy>:<first>:<last>` that the arguments name, and resumes from checkpoints of earlier ones.

A checkpoint holds whole tensors, so that another number of ranks can continue.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from tbx_callbacks import TbxLoop
from tests.helpers.data import collate, rows
from tests.ranks.scripts.train_in_loop import share, wrapped

SET: Any = {
    "every": 2,
    "strict": True,
    "metrics": ["drift", {"drift": {"by": "total"}}, {"weight_norm": {"by": "total"}}],
}


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in model.named_parameters()}
    return {name.removeprefix("module."): tensor.detach().clone() for name, tensor in tensors.items()}


def load(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = state[name.removeprefix("module.")]
            if isinstance(parameter, DTensor):
                tensor = distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
            parameter.copy_(tensor)


def train(strategy: str, first: int, last: int, target: Path) -> None:
    folder, checkpoint = target / strategy, target / f"{strategy}_{first}.pt"
    model = wrapped(strategy)
    if first:
        load(model, torch.load(checkpoint))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with TbxLoop(model, optimizer, SET, log_dir=folder, log_every=2, start_step=first) as loop:
        for step in range(first, last):
            batch = share(collate(rows(8, seed=step)), 2 if strategy.startswith("tp") else 1)
            nn.functional.cross_entropy(model(batch["input_ids"]), batch["labels"]).backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step()
    state = whole(model)
    if not dist.is_initialized() or dist.get_rank() == 0:
        torch.save(state, target / f"{strategy}_{last}.pt")


if __name__ == "__main__":
    to, chosen = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    logging.basicConfig(format="warning %(message)s")
    if chosen[0] != "alone":
        dist.init_process_group("gloo")
    for each in [argument for argument in chosen if ":" in argument]:
        name, begin, end = each.split(":")
        if dist.is_initialized():
            dist.barrier()
        print(f"<{each}>", file=sys.stderr, flush=True)
        train(name, int(begin), int(end), to)
        print(f"</{each}>", file=sys.stderr, flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()
