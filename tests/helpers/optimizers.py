"""Trains a small model with any optimizer, and records the change of each step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks import TbxLoop
from tests.helpers.runs import Run

SET = {"every": 2, "metrics": [{"optimizer_state": {"by": "parameter"}}, {"optimizer_state": {"by": "total"}}]}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(6, 5), "b": nn.Conv1d(3, 4, 2), "frozen": nn.Linear(2, 2)})


def run(folder: Path, make: Callable[[Any], Any], steps: int = 4) -> tuple[Run, nn.Module, Any, dict[int, Any]]:
    model = net()
    model["frozen"].requires_grad_(False)
    optimizer, changes = make(model), {}
    with TbxLoop(model, optimizer, SET, log_dir=folder) as loop:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            x = torch.randn(3, 6, generator=torch.Generator().manual_seed(step))
            (model["a"](x).tanh().square().mean() + model["b"](x.view(3, 3, 2)).tanh().mean()).backward()
            before = {name: p.detach().double().clone() for name, p in model.named_parameters()}
            optimizer.step()
            changes[step] = {name: before[name] - p.detach().double() for name, p in model.named_parameters()}
            loop.end_step()
    return Run(folder), model, optimizer, changes


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def rms(tensors: list[Tensor]) -> float:
    flat = torch.cat([tensor.reshape(-1).double() for tensor in tensors])
    return float(flat.square().mean().sqrt())
