"""Trains with each strategy that the arguments name, on several ranks or with one process on the same batches.

A rank takes its share of each global batch, so that all ranks together train as one process would.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop
from tests.helpers.data import SHARDED as SET
from tests.helpers.data import collate, rows

STEPS, BATCH, CLIP = 6, 8, 0.05


class Net(nn.Module):
    """A model whose layer sizes do not divide evenly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 7)
        self.layers = nn.ModuleList([nn.Linear(7, 7) for _ in range(2)])
        self.head = nn.Linear(7, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids).mean(1)
        for layer in self.layers:
            x = torch.tanh(layer(x)) + x
        return self.head(x)


class NaNForBias(torch.autograd.Function):
    """Adds a bias and multiplies its gradient only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x + bias

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad, grad.sum(0) * ctx.factor, None


class Bias(nn.Module):
    """A bias with a NaN gradient at the second step."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.step = nn.Parameter(torch.zeros(2)), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.step += 1
        return NaNForBias.apply(x, self.bias, torch.nan if self.step == 2 else 1.0)


class BadNet(Net):
    """A model whose last layer alone has a NaN gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.last = Bias()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.last(super().forward(ids))


def wrapped(strategy: str) -> nn.Module:
    model = BadNet() if strategy.endswith("_nan") else Net()
    strategy = strategy.removesuffix("_nan")
    if strategy.startswith("fsdp1"):
        return fsdp1(model, strategy.removeprefix("fsdp1_"))
    if strategy in ("ddp", "zero_redundancy"):
        return DistributedDataParallel(model)
    if strategy.startswith("tp"):
        return tensor_parallel(model, strategy)
    if strategy in ("fsdp", "hsdp"):
        shape = (2, dist.get_world_size() // 2) if strategy == "hsdp" else (dist.get_world_size(),)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def tensor_parallel(model: nn.Module, strategy: str) -> nn.Module:
    """Splits linear layers in two; with 4 ranks FSDP shards everything too. The embedding is on the FSDP mesh alone.

    `tp_mixed` splits the head alone; its bias and the other layers are whole on each rank.
    """
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "tensor"))
    for layer in model.layers if strategy != "tp_mixed" else ():
        parallelize_module(layer, mesh["tensor"], ColwiseParallel(output_layouts=Replicate()))
    parallelize_module(model.head, mesh["tensor"], RowwiseParallel(input_layouts=Replicate()))
    if mesh.size(0) > 1:
        for layer in model.layers:
            fully_shard(layer, mesh=mesh["data"])
        fully_shard(model, mesh=mesh["data"])
    return model


def fsdp1(model: nn.Module, how: str) -> nn.Module:
    """Wraps in FullyShardedDataParallel with the sharding strategy `how`; `flat` exposes flat parameters only."""
    strategy = ShardingStrategy.FULL_SHARD if how == "flat" else ShardingStrategy[how.upper()]
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")) if how == "hybrid_shard" else None
    return FullyShardedDataParallel(
        model,
        sharding_strategy=strategy,
        auto_wrap_policy=ModuleWrapPolicy({nn.Linear}),
        use_orig_params=how != "flat",
        device_mesh=mesh,
        device_id=torch.device("cpu"),
    )


def share(batch: dict[str, torch.Tensor], alike: int) -> dict[str, torch.Tensor]:
    """This rank's samples of a global batch; `alike` consecutive ranks take the same samples."""
    if not dist.is_initialized():
        return batch
    return {key: value[dist.get_rank() // alike :: dist.get_world_size() // alike] for key, value in batch.items()}


def optimizer_of(strategy: str, model: nn.Module) -> torch.optim.Optimizer:
    if strategy == "zero_redundancy":
        return ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2, foreach=False)
    return torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)


def clip(model: nn.Module) -> None:
    """Clips as nn.utils.clip_grad_norm_ does, which cannot mix meshes."""
    if isinstance(model, FullyShardedDataParallel):
        model.clip_grad_norm_(CLIP)
        return
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    whole = [grad.full_tensor() if isinstance(grad, DTensor) else grad for grad in grads]
    factor = CLIP / (torch.stack([grad.norm() for grad in whole]).norm().item() + 1e-6)
    for grad in grads:
        grad.mul_(min(factor, 1.0))  # NaN stays NaN, as in torch


def train(strategy: str, folder: Path) -> None:
    model = wrapped(strategy)
    optimizer = optimizer_of(strategy, model)
    alike = 2 if strategy.startswith("tp") else 1
    with TbxLoop(model, {"AdamW": optimizer}, SET, log_dir=folder, log_every=2, max_grad_norm=CLIP) as loop:
        for step in range(STEPS):
            batch = share(collate(rows(BATCH, seed=step)), alike)
            loss = nn.functional.cross_entropy(model(batch["input_ids"]), batch["labels"])
            loss.backward()
            loop.before_clip()
            clip(model)
            optimizer.step()
            optimizer.zero_grad()
            tokens = batch["attention_mask"].sum() / alike
            loop.end_step(loss=loss, samples=len(batch["labels"]) // alike, tokens=tokens)
    kinds = {type(parameter).__name__ for parameter in model.parameters()}
    here = sum(parameter.numel() for parameter in model.parameters())
    print(f"{strategy}: parameters are {sorted(kinds)} in {type(model).__name__}, {here} elements here", flush=True)
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        print(f"{strategy}: states here: {len(optimizer.optim.state)}", flush=True)


if __name__ == "__main__":
    target, chosen = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    logging.basicConfig(format="warning %(message)s")
    if not chosen[0].startswith("alone"):
        dist.init_process_group("gloo")
    for each in chosen:
        print(f"<{each}>", file=sys.stderr, flush=True)
        train(each, target / each)
    if dist.is_initialized():
        dist.destroy_process_group()
