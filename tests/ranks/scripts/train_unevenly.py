"""Trains ranks that differ from one another; the tests start one process a rank."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import tbx_callbacks._distributed.group
import tbx_callbacks._engine.engine
from tbx_callbacks import TbxLoop
from tbx_callbacks._model.parameters import Select
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.registry import METRICS
from tbx_callbacks.metrics.values import Sum, Value
from tests.helpers.limits import limit

SET: dict[str, Any] = {
    "every": 2,
    "metrics": [
        "loss",
        "learning_rate",
        "throughput",
        "nonfinite",
        {"grad_norm": {"by": "total"}},
        {"weight_norm": {"by": "layer"}},
        {"weight_histogram": {"by": "layer", "every": 2}},
        "probe",
    ],
}


@dataclass(frozen=True)
class Probe:
    """Gives 1 from each rank; it fails on a given rank from a given step."""

    tags: ClassVar[Mapping[str, str]] = {"probe/ranks": ""}
    events: ClassVar[frozenset[str]] = frozenset({"step"})
    needs: ClassVar[frozenset[str]] = frozenset()
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"
    fails: ClassVar[tuple[int, int]] = (-1, 0)

    def __call__(self, context: Context) -> dict[str, Value]:
        if dist.get_rank() == self.fails[0] and context.step >= self.fails[1]:
            raise ValueError("a fault of this rank")
        return {"probe/ranks": Sum(1.0)}


METRICS["probe"] = Probe
FOLDER = Path()


def net(names: tuple[str, ...] = ("body", "head"), seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential()
    for name in names:
        model.add_module(name, nn.Linear(5, 5))
    return model


def batches(steps: int) -> Iterator[torch.Tensor]:
    for step in range(1, steps + 1):
        generator = torch.Generator().manual_seed(step)
        yield torch.randn(4, 5, generator=generator)


def loop_of(model: nn.Module, **options: Any) -> tuple[TbxLoop, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TbxLoop(model, optimizer, SET, log_dir=FOLDER, log_every=2, **options), optimizer


def train(model: nn.Module, steps: int = 6, *, backward: bool = True, at: Any = None, loss: bool = True) -> TbxLoop:
    """Trains; calls `at(step, loop)` between the optimizer's step and `end_step`."""
    loop, optimizer = loop_of(model)
    with loop:
        for step, batch in enumerate(batches(steps), 1):
            found = model(batch).square().mean()
            if backward:
                found.backward()
            optimizer.step()
            if at is not None:
                at(step, loop)
            optimizer.zero_grad()
            loop.end_step(loss=found if loss else None, samples=4)
    return loop


def ddp() -> nn.Module:
    return DistributedDataParallel(net())


def fsdp() -> nn.Module:
    return fully_shard(net())


def plain(rank: int) -> None:
    train(net())


def raises(rank: int) -> None:
    Probe.fails = (1, 4)
    train(fsdp())


def raises_on_the_writer(rank: int) -> None:
    Probe.fails = (0, 4)
    train(fsdp())


def no_gradients(rank: int) -> None:
    train(net(), backward=rank == 0)


def stages(rank: int) -> None:
    train(net(("embed", "body"), 1) if rank == 0 else net(("head",), 2), loss=rank == 1)


def namesakes(rank: int) -> None:
    train(net(seed=rank))


def frozen_later(rank: int) -> None:
    model = fsdp()

    def freeze(step: int, loop: TbxLoop) -> None:
        model.head.requires_grad_(step < 2)

    train(model, at=freeze)


def killed(rank: int) -> None:
    def kill(step: int, loop: TbxLoop) -> None:
        if rank == 1 and step == 5:
            time.sleep(0.5)  # the values of step 4 are merged
            os.kill(os.getpid(), signal.SIGKILL)

    train(ddp(), 20, at=kill)


def uneven(rank: int) -> None:
    train(net(), 10 if rank == 0 else 5)


def uneven_writer(rank: int) -> None:
    train(net(), 5 if rank == 0 else 10)


def joined(rank: int) -> None:
    model = ddp()
    with Join([model]):
        train(model, 10 if rank == 0 else 5)


def evaluates(rank: int) -> None:
    def evaluate(step: int, loop: TbxLoop) -> None:
        if rank == 0 and step in (3, 4):
            time.sleep(1)
            loop.evaluate(accuracy=0.5)

    train(ddp(), at=evaluate)


def never(rank: int) -> None:
    tbx_callbacks._distributed.group._JOIN_SECONDS = 1.0
    model = ddp()
    if rank == 0:
        train(model)
    else:
        for batch in batches(6):
            model(batch).square().mean().backward()


def never_sharded(rank: int) -> None:
    tbx_callbacks._distributed.group._JOIN_SECONDS = 1.0
    model = fsdp()
    if rank == 0:
        train(model)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in batches(6):
            model(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


def late(rank: int) -> None:
    time.sleep(2 * rank)
    train(ddp())


def behind_a_barrier(rank: int) -> None:
    tbx_callbacks._distributed.group._JOIN_SECONDS = 1.0
    if rank == 1:
        dist.barrier()
    loop, _ = loop_of(net())
    if rank == 0:
        dist.barrier()
    loop.close()


def error(rank: int) -> None:
    def fail(step: int, loop: TbxLoop) -> None:
        if rank == 1 and step == 5:
            raise ValueError("a fault of the user's")

    train(ddp(), 20, at=fail)


def destroyed(rank: int) -> None:
    loop, optimizer = loop_of(net())
    with loop:
        for batch in batches(6):
            loss = net()(batch).square().mean()
            optimizer.step()
            loop.end_step(loss=loss, samples=4)
        dist.destroy_process_group()


def open_at_exit(rank: int) -> None:
    global kept
    kept, optimizer = loop_of(net())
    for batch in batches(6):
        optimizer.step()
        kept.end_step(loss=batch.mean(), samples=4)


def stuck(rank: int) -> None:
    """Keeps rank 1 from the last step until rank 0 has ended."""
    tbx_callbacks._engine.engine._DRAIN_SECONDS = 1.0

    def wait(step: int, loop: TbxLoop) -> None:
        if rank == 1 and step == 6:
            time.sleep(8)

    train(net(), at=wait)


def breaks(rank: int) -> None:
    """Makes the recorder fail on one rank."""

    def spoil(step: int, loop: TbxLoop) -> None:
        if rank == 1 and step == 3:
            loop._session._engine.recorder._access.weights = None  # type: ignore[union-attr,assignment]

    train(fsdp(), at=spoil)


def twice(rank: int) -> None:
    global FOLDER
    train(net(), 2)
    FOLDER = FOLDER / "second"
    train(net(), 4)


if __name__ == "__main__":
    base, scenarios = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=limit(60)))
    for scenario in scenarios:  # scenarios that do not end their process share one process
        Probe.fails, FOLDER = (-1, 0), base / scenario
        tbx_callbacks._engine.engine._DRAIN_SECONDS, tbx_callbacks._distributed.group._JOIN_SECONDS = 30.0, 60.0
        dist.barrier()
        print(f"<{scenario}>", flush=True)
        started = time.monotonic()
        globals()[scenario](dist.get_rank())
        print(f"seconds {time.monotonic() - started:.1f}\n</{scenario}>", flush=True)
    if dist.is_initialized() and scenarios != ["open_at_exit"]:
        dist.destroy_process_group()
    print("over", flush=True)
