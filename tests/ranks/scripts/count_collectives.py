"""Counts the collectives of each step of a training; the tests start one process a rank."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop

STEPS, EVERY = 12, 3
SET: dict[str, Any] = {
    "extends": "full",
    "every": EVERY,
    "metrics": [
        {"weight_histogram": None},
        {"grad_histogram": None},
        {"update_histogram": None},
        {"activations": None},
    ],
}
COPIES: dict[str, Any] = {**SET, "metrics": [*SET["metrics"][:-1], {"activations": False}]}
RULES: dict[str, Any] = {"rules": {"nonfinite": "stop"}}
SETS = {"fsdp": SET, "ddp": SET, "copies": COPIES, "fsdp-rules": {**SET, **RULES}, "copies-rules": {**COPIES, **RULES}}
OURS: list[tuple[str, int]] = []
TRAINING: list[str] = []


def counting(name: str, function: Callable[..., Any], calls: Callable[[Any], None]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls(args)
        return function(*args, **kwargs)

    return call


def count() -> None:
    """Counts the operations of the callback's gloo group and all collectives of torch.distributed."""
    for name in ("allreduce", "allgather", "broadcast", "gather", "reduce", "alltoall", "barrier", "send", "recv"):
        function = getattr(dist.ProcessGroupGloo, name)
        numel = lambda args, name=name: OURS.append((name, args[1][0].numel()))  # noqa: E731
        setattr(dist.ProcessGroupGloo, name, counting(name, function, numel))
    collectives = ("all_reduce", "all_gather", "all_gather_object", "broadcast", "all_gather_into_tensor", "barrier")
    for name in (*collectives, "reduce_scatter_tensor", "gather_object", "broadcast_object_list", "gather", "reduce"):
        function = getattr(dist, name)
        wrapped = counting(name, function, lambda args, name=name: TRAINING.append(name))
        setattr(dist, name, wrapped)
        setattr(dist.distributed_c10d, name, wrapped)


def net(strategy: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16), *[nn.Linear(16, 16) for _ in range(4)], nn.Linear(16, 2))
    return fully_shard(model) if strategy == "fsdp" else DistributedDataParallel(model)


def train(strategy: str, folder: Path | None) -> dict[int, list[tuple[str, int]]]:
    """The callback's collectives by step; without a folder it trains without the callback."""
    model = net(strategy.partition("-")[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loop = TbxLoop(model, optimizer, SETS[strategy], log_dir=folder, log_every=EVERY) if folder else None
    found = {}
    OURS.clear()
    TRAINING.clear()
    for step in range(1, STEPS + 1):
        model(torch.randint(50, (4,))).square().mean().backward()
        if loop:
            loop.before_clip()
        optimizer.step()
        optimizer.zero_grad()
        if loop:
            loop.end_step(loss=torch.ones(()), samples=4)
            assert loop._session._engine.publisher.reducer is not None
            assert loop._session._engine.publisher.reducer.drain(30)
        found[step], OURS[:] = list(OURS), []
    if loop:
        ranks = loop._session._engine.publisher.reducer
        loop.close()
        assert ranks is not None
        ranks.shutdown(30)  # the last collective of its end must not count for the next training
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    count()
    said = {}
    for each in SETS:
        without = train(each, None), list(TRAINING)
        found = train(each, Path(sys.argv[1]) / each), list(TRAINING)
        said[each] = {"ours": found[0], "without": without[0], "training": found[1] == without[1]}
    if dist.get_rank() == 0:
        print("found " + json.dumps(said))
    dist.destroy_process_group()
