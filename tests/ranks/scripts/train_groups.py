"""Trains on process groups that come late, differ or end; the tests start one process a rank."""

from __future__ import annotations

import logging
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.integrations import Session
from tests.helpers.limits import limit

SET: dict[str, Any] = {"every": 1, "metrics": ["loss", {"grad_norm": {"by": "total"}}]}
STEPS = 4
FOLDER = Path()
RANK = int(os.environ.get("RANK", "0"))


def begin(name: str, *, seconds: float | None = None) -> None:
    timeout = timedelta(seconds=limit(60) if seconds is None else seconds)
    size = int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{FOLDER}/{name}", rank=RANK, world_size=size, timeout=timeout)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> torch.Tensor:
    optimizer.zero_grad()
    generator = torch.Generator().manual_seed(10 * number + RANK)
    loss: torch.Tensor = model(torch.randn(2, 3, generator=generator)).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def train(name: str, process_group: Any = None, config: dict[str, Any] = SET, log_every: int = 1) -> None:
    model = DistributedDataParallel(net(), process_group=process_group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    folder = FOLDER / name
    with TbxLoop(model, optimizer, config, log_dir=folder, log_every=log_every, process_group=process_group) as loop:
        for number in range(1, STEPS + 1):
            loop.end_step(loss=step(model, optimizer, number), samples=2)


def usual() -> None:
    begin("usual.store")
    train("usual")
    dist.destroy_process_group()


def again() -> None:
    """Begins and ends several groups in one process; one is a single rank."""
    for trial in range(4):
        if trial == 2:
            dist.init_process_group("gloo", init_method=f"file://{FOLDER}/alone{RANK}.store", rank=0, world_size=1)
            train(f"alone{RANK}")
        else:
            begin(f"again{trial}.store")
            train(f"again{trial}")
        dist.destroy_process_group()


def late() -> None:
    """Creates the loop before the process group."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=FOLDER / "late", log_every=1) as loop:
        begin("late.store")
        wrapped = DistributedDataParallel(model)
        for number in range(1, STEPS + 1):
            loop.end_step(loss=step(wrapped, optimizer, number), samples=2)
    dist.destroy_process_group()


def late_unnamed() -> None:
    """Creates the loop before the process group, where no variable names the rank."""
    for name in ("RANK", "LOCAL_RANK"):
        del os.environ[name]
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=FOLDER / f"unnamed{RANK}", log_every=2) as loop:
        begin("unnamed.store")
        wrapped = DistributedDataParallel(model)
        for number in range(1, STEPS + 1):
            loop.end_step(loss=step(wrapped, optimizer, number), samples=2)
    dist.destroy_process_group()


def pairs() -> None:
    """Trains two models, one on each pair of ranks."""
    begin("pairs.store")
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    train(f"pair{RANK // 2}", groups[RANK // 2])
    dist.destroy_process_group()


def subgroup() -> None:
    """Trains on two of four ranks; the others make the same loop, or none."""
    begin("subgroup.store")
    group = dist.new_group([1, 3])
    if RANK in (1, 3):
        train("subgroup", group)
    elif RANK == 0:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with TbxLoop(model, optimizer, SET, log_dir=FOLDER / "subgroup", process_group=group) as loop:
            loop.end_step(loss=step(model, optimizer, 1), samples=2)
    dist.barrier()
    dist.destroy_process_group()


def other_sets() -> None:
    begin("other_sets.store")
    train("other_sets", config=SET if RANK == 0 else {**SET, "every": 2})
    dist.destroy_process_group()


def other_log_every() -> None:
    begin("other_log_every.store")
    train("other_log_every", log_every=100 + RANK)
    dist.destroy_process_group()


def own_logs() -> None:
    """Logs on rank 0 alone, at steps where only rules are due."""
    begin("own_logs.store")
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {**SET, "every": 2, "rules": {"every": 1, "nonfinite": "stop"}}
    with Session(config, log_dir=FOLDER / "own_logs") as session:
        session.start(TrainingInfo(model, optimizer, log_schedule=4), numbered=True)
        for number in range(1, 9):
            session.begin_step(number)
            if RANK == 0 and number == 3:
                session.record_logs({"train/of_rank_0": 1.0}, step=2)
            session.record_batch(loss=step(model, optimizer, number), samples=2)
            session.end_step(number)
            if RANK == 0:
                session.record_logs({"train/also": float(number)}, step=number)
    dist.destroy_process_group()


def batch(number: int, rank: int) -> torch.Tensor:
    """Returns a micro-batch of a size of its own; one is empty, and the last of each step is small."""
    generator = torch.Generator().manual_seed(10 * number + rank)
    size = 0 if (number, rank) == (5, 1) else 1 if number % 2 else 2 + (3 * number + 5 * rank) % 7
    return torch.randn(size, 3, generator=generator)


def uneven_batches() -> None:
    """Accumulates two micro-batches whose sizes differ by rank and step; the model does not change."""
    begin("uneven_batches.store")
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with TbxLoop(model, optimizer, SET, log_dir=FOLDER / "uneven_batches", log_every=2) as loop:
        for number in range(1, 9):
            inputs = batch(number, RANK)
            loss = model(inputs).square().mean()  # NaN for an empty batch
            if len(inputs):
                loss.backward()
            else:
                (model(torch.zeros(1, 3)).sum() * 0).backward()
            if not number % 2:
                optimizer.step()
                optimizer.zero_grad()
            loop.end_step(loss=loss, samples=len(inputs))
    dist.destroy_process_group()


def no_network() -> None:
    """Has a rank whose network interface does not exist."""
    begin("no_network.store", seconds=10)
    name = "GLOO_SOCKET_IFNAME"
    model = DistributedDataParallel(net())
    if RANK == 1:
        os.environ[name] = "nosuch0"
    started = time.monotonic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=FOLDER / "no_network", log_every=1) as loop:
        print(f"made in {time.monotonic() - started:.1f}")
        for number in range(1, STEPS + 1):
            loop.end_step(loss=step(model, optimizer, number), samples=2)
    os.environ.pop(name, None)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(1)
    for scenario in sys.argv[2:]:
        FOLDER = Path(sys.argv[1])
        print(f"<{scenario}>", flush=True)
        globals()[scenario]()
        print(f"</{scenario}>", flush=True)
