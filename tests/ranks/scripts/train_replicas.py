"""Trains ranks whose copies stay the same, and ranks whose copies begin to differ; the tests start one process a rank.

Run as: train_replicas.py FOLDER SCENARIO ... Each scenario writes a run to FOLDER/SCENARIO.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tbx_callbacks import TbxLoop
from tests.helpers.limits import limit
from tests.ranks.scripts.train_stages import sequence_parallel

EVERY, STEPS, FROM = 2, 8, 5
"""Due steps are 2, 4, 6 and 8; a fault begins in step 5."""
SET: dict[str, Any] = {
    "extends": "default",
    "every": EVERY,
    "metrics": [{"grad_norm": {"by": "total"}}, {"replica_state": {"every": EVERY}}],
}
FOLDER = Path()
Reduce = Callable[[int, nn.Module], None]


class Net(nn.Module):
    """Two layers, with a LayerNorm between them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner, self.norm, self.outer = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.outer(self.norm(self.inner(inputs)).relu())
        return outputs


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def inputs(step: int, number: int, shape: tuple[int, ...]) -> Tensor:
    """Returns this rank's micro-batch."""
    generator = torch.Generator().manual_seed(1000 * step + 10 * number + rank())
    return torch.randn(shape, generator=generator)


def nothing(step: int, model: nn.Module) -> None:
    """Leaves the gradients to the wrapper."""


def average(step: int, model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def train(
    model: nn.Module,
    *,
    reduce: Reduce = nothing,
    after: Reduce = nothing,
    optimizer: torch.optim.Optimizer | None = None,
    batches: int = 1,
    forgets_sync: bool = False,
    shape: tuple[int, ...] = (4, 8),
    autocast: bool = False,
    also: torch.optim.Optimizer | None = None,
    steps: range = range(1, STEPS + 1),
    lr: float = 0.01,
    options: Mapping[str, Any] | None = None,
) -> None:
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=lr)
    optimizers = [optimizer, *([also] if also is not None else [])]
    with TbxLoop(model, optimizers, SET, log_dir=FOLDER, log_every=EVERY, **(options or {})) as loop:
        for step in steps:
            for each in optimizers:
                each.zero_grad()
            for number in range(batches):
                is_last = number == batches - 1 and not (forgets_sync and step >= FROM)
                with nullcontext() if is_last or batches == 1 else model.no_sync():  # type: ignore[operator]
                    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                        loss = model(inputs(step, number, shape)).float().square().mean()
                    loss.backward()
                if number < batches - 1:
                    loop.end_step(loss=loss, samples=4)
            reduce(step, model)
            for each in optimizers:
                each.step()
            after(step, model)
            loop.end_step(loss=loss, samples=4)


def wrapped(**options: Any) -> DistributedDataParallel:
    return DistributedDataParallel(Net(), **options)


def alone() -> None:
    train(Net())


# -- healthy trainings -------------------------------------------------------------------------------------------------


def ddp() -> None:
    train(wrapped())


def ddp_accumulation() -> None:
    train(wrapped(), batches=3)


def ddp_mixed_precision() -> None:
    train(wrapped(), autocast=True)


def ddp_half() -> None:
    model = DistributedDataParallel(Net().bfloat16())
    model.register_forward_pre_hook(lambda _, given: (given[0].bfloat16(),))
    train(model)


def ddp_zero1() -> None:
    model = wrapped()
    train(model, optimizer=ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01))


def ddp_momentum() -> None:
    model = wrapped()
    train(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))


def ddp_frozen() -> None:
    net = Net()
    net.inner.requires_grad_(False)
    train(DistributedDataParallel(net))


def ddp_batch_norm() -> None:
    net = Net()
    net.norm = nn.BatchNorm1d(16)  # type: ignore[assignment]
    train(DistributedDataParallel(net))


def ddp_sparse() -> None:
    net = Net()
    embedding = nn.Embedding(8, 8, sparse=True)
    model = DistributedDataParallel(nn.Sequential(embedding, net))
    model.register_forward_pre_hook(lambda _, given: (given[0].argmax(1),))
    train(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))


def ddp_two_optimizers() -> None:
    model = wrapped()
    net: Any = model.module
    rest = torch.optim.SGD([*net.norm.parameters(), *net.outer.parameters()], lr=0.01, momentum=0.9)
    first = torch.optim.AdamW(net.inner.parameters(), lr=0.01)
    train(model, optimizer=first, also=rest)


def averaged_by_hand() -> None:
    train(Net(), reduce=average)


def ddp_resumed() -> None:
    """Ends after four steps, and goes on with the same model, optimizer and folder."""
    model = wrapped()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer=optimizer, steps=range(1, 5))
    train(model, optimizer=optimizer, steps=range(5, STEPS + 1), options={"start_step": 4})


def own_experts() -> None:
    """Has an expert of each rank, under its own name, within a layer that all ranks share."""
    net = Net()
    net.inner.register_module(f"expert{rank()}", nn.Linear(8, 16))
    inner: Any = net.inner
    inner.register_forward_hook(lambda module, given, result: result + getattr(module, f"expert{rank()}")(given[0]))

    def reduce(_: int, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if "expert" not in name and parameter.grad is not None:
                dist.all_reduce(parameter.grad)

    train(net, reduce=reduce)


def excluded_experts() -> None:
    """Has an expert of each rank under one name, which DistributedDataParallel leaves alone."""
    net = Net()
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, ["outer.weight", "outer.bias"])
    train(DistributedDataParallel(net))


def stages() -> None:
    """Two stages of a pipeline, with other weights under the same names."""
    train(Net(seed=rank()))


def fsdp2() -> None:
    train(_sharded(Net(), init_device_mesh("cpu", (dist.get_world_size(),))))


def hsdp() -> None:
    train(_sharded(Net(), _two_dimensions()))


def tensor_parallel() -> None:
    train(sequence_parallel(), shape=(2, 4, 8), reduce=_reduce_norms)


def _two_dimensions() -> Any:
    return init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicas", "shards"))


def _sharded(model: nn.Module, mesh: Any) -> nn.Module:
    for layer in model.children():
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _reduce_norms(_: int, model: nn.Module) -> None:
    for parameter in model.parameters():
        gradient = parameter.grad
        if isinstance(gradient, DTensor):
            parameter.grad = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]


# -- faults ------------------------------------------------------------------------------------------------------------


def on_last_rank(change: Callable[[nn.Module], None]) -> Reduce:
    def after(step: int, model: nn.Module) -> None:
        if step == FROM and rank() == dist.get_world_size() - 1:
            with torch.no_grad():
                change(model)

    return after


def last_bit(model: nn.Module) -> None:
    """Changes the last bit of one weight."""
    weight = next(parameter for name, parameter in model.named_parameters() if name.endswith("outer.weight"))
    flat = (weight.to_local() if isinstance(weight, DTensor) else weight).detach().reshape(-1)
    flat[3:4].view(torch.int32).add_(1)


def swapped(model: nn.Module) -> None:
    """Swaps two weights, which keeps every norm and every sum."""
    flat = dict(model.named_parameters())["module.outer.weight"].detach().view(-1)
    flat[:2] = flat[:2].flip(0).clone()


def never_reduced() -> None:
    train(Net())


def forgotten_sync() -> None:
    train(wrapped(), batches=2, forgets_sync=True)


def zeroed_reduction() -> None:
    """Loses one of 48 all-reduces on rank 1."""
    calls = 0

    def reduce(step: int, model: nn.Module) -> None:
        nonlocal calls
        average(step, model)
        for parameter in model.parameters():
            calls += 1
            if calls == 27 and rank() == 1:
                assert parameter.grad is not None
                parameter.grad.zero_()

    train(Net(), reduce=reduce)


def one_bit() -> None:
    train(wrapped(), after=on_last_rank(last_bit))


def one_bit_half() -> None:
    model = DistributedDataParallel(Net().bfloat16())
    model.register_forward_pre_hook(lambda _, given: (given[0].bfloat16(),))

    def change(model: nn.Module) -> None:
        weight = dict(model.named_parameters())["module.outer.weight"]
        weight.detach().view(-1)[3:4].view(torch.int16).add_(1)

    train(model, after=on_last_rank(change))


def swapped_weights() -> None:
    train(wrapped(), after=on_last_rank(swapped))


def other_checkpoint() -> None:
    """Loads another checkpoint on rank 1, after the model was wrapped."""
    model = wrapped()
    if rank() == 1:
        model.module.load_state_dict(Net(seed=1).state_dict())
    train(model)


def other_checkpoint_by_hand() -> None:
    """Starts ranks from different checkpoints, and averages gradients without a wrapper."""
    train(Net(seed=rank()), reduce=average)


def other_state() -> None:
    """Has another state of the optimizer on rank 1; the learning rate is still zero."""
    model = wrapped()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def after(step: int, _: nn.Module) -> None:
        if step == FROM and rank() == 1:
            optimizer.state[model.module.norm.bias]["exp_avg"].mul_(2)

    train(model, optimizer=optimizer, after=after)


def own_statistics() -> None:
    net = Net()
    net.norm = nn.BatchNorm1d(16)  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the option gets another name
        model = DistributedDataParallel(net, broadcast_buffers=False)
    train(model)


def unreduced_norm() -> None:
    """Has another gradient of the LayerNorm, which tensor parallelism replicates, on rank 1 from step 5 on."""

    def reduce(step: int, model: nn.Module) -> None:
        _reduce_norms(step, model)
        for name, parameter in model.named_parameters():
            if step >= FROM and name.startswith("norm") and rank() == 1:
                assert isinstance(parameter.grad, DTensor)
                parameter.grad.to_local().mul_(0.5)

    train(sequence_parallel(), shape=(2, 4, 8), reduce=reduce)


def hsdp_one_bit() -> None:
    train(_sharded(Net(), _two_dimensions()), after=on_last_rank(last_bit))


def hsdp_two_ranks() -> None:
    """Changes both shards of the second replica."""

    def after(step: int, model: nn.Module) -> None:
        if step == FROM and rank() >= 2:
            with torch.no_grad():
                last_bit(model)

    train(_sharded(Net(), _two_dimensions()), after=after)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(1)
    if sys.argv[2:] != ["alone"]:
        dist.init_process_group("gloo", timeout=timedelta(seconds=limit(60)))
    for scenario in sys.argv[2:]:
        FOLDER = Path(sys.argv[1]) / scenario
        print(f"<{scenario}>", flush=True)
        globals()[scenario]()
        print(f"</{scenario}>", flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()
