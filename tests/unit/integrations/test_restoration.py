"""Tests that a model, data loaders and random generators are put back bit for bit."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, Subset

from tbx_callbacks.integrations.restoration import put_back


class Odd(nn.Module):
    """A model with many kinds of state."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.register_buffer("none", None)
        self.register_buffer("expanded", torch.ones(1, 2).expand(3, 2))
        self.register_buffer("replaced", torch.ones(2))
        self.calls, self.seen, self.last = 0, list[float](), deque[Tensor](maxlen=2)
        self.by_name = {"total": torch.zeros(2)}
        self.plain = torch.zeros(2)
        self.array, self.dice = np.zeros(2), np.random.default_rng(0)
        self.python, self.generator = random.Random(0), torch.Generator().manual_seed(0)
        self.register_buffer("observed", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.norm(self.linear(x))
        self.none = hidden.detach()
        self.register_buffer("lazy", hidden.detach().clone())
        self.added = nn.Linear(2, 2)
        self.expanded[0, 0] += 1  # in place, at every row
        self.replaced = self.replaced + 1
        self.calls += 1
        self.seen.append(float(hidden.detach().sum()))
        self.last.append(hidden.detach())
        self.by_name["total"] += 1
        self.by_name["new"] = torch.ones(1)
        self.plain += 1
        self.array += self.dice.random() + self.python.random() + float(torch.rand((), generator=self.generator))
        self.observed.resize_(2).fill_(float(self.array[0]))
        return hidden


def state_of(model: Odd) -> dict[str, Any]:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    others = {"plain": model.plain.clone(), "total": model.by_name["total"].clone()}
    others |= {"array": torch.tensor(model.array), "generator": model.generator.get_state()}
    others["dice"] = torch.tensor([model.dice.bit_generator.state["state"]["state"] % 2**53])
    others["python"] = torch.tensor(model.python.getstate()[1][:600])
    counts = (
        model.calls,
        list(model.seen),
        len(model.last),
        sorted(model.by_name),
        model.none,
        hasattr(model, "added"),
    )
    return {"tensors": {**tensors, **others}, "counts": counts, "modes": [each.training for each in model.modules()]}


def use(model: Odd) -> None:
    model(torch.randn(4, 2)).sum().backward()
    model.eval()


@pytest.mark.parametrize("fails", [False, True], ids=["success", "exception"])
def test_put_back_model_with_odd_state(fails: bool) -> None:
    torch.manual_seed(0)
    model = Odd()
    model.linear.weight.grad = kept = torch.ones(2, 2)
    before, random_state = state_of(model), torch.get_rng_state()
    with pytest.raises(KeyError, match="of the user") if fails else nullcontext(), put_back(model):
        assert model.linear.weight.grad is None
        use(model)
        if fails:
            raise KeyError("of the user")
    after = state_of(model)
    assert before["counts"] == after["counts"]
    assert before["modes"] == after["modes"]
    assert before["tensors"].keys() == after["tensors"].keys()
    assert all(torch.equal(tensor, after["tensors"][name]) for name, tensor in before["tensors"].items())
    assert model.linear.weight.grad is kept
    assert torch.equal(kept, torch.ones(2, 2))
    assert torch.equal(torch.get_rng_state(), random_state)
    use(model)  # and it works as before


class Rows(Dataset[Tensor]):
    """Numbers with noise, from generators of its own."""

    def __init__(self) -> None:
        self.python, self.numpy, self.legacy = random.Random(0), np.random.default_rng(0), np.random.RandomState(0)
        self.generator, self.read = torch.Generator().manual_seed(0), list[int]()

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        self.read.append(index)
        noise = [self.python.random(), float(self.numpy.random()), float(self.legacy.rand())]
        return torch.tensor([index, len(self.read), *noise]) + torch.rand(5, generator=self.generator)


class Epochs(Sampler[int]):
    """An order that depends on how often it was read."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Any:
        self.epoch += 1
        return iter(np.random.default_rng(self.epoch).permutation(12).tolist())


LOADERS: dict[str, Callable[[], DataLoader[Tensor]]] = {
    "shuffled": lambda: DataLoader(Rows(), 4, shuffle=True, generator=torch.Generator().manual_seed(1)),
    "global": lambda: DataLoader(Rows(), 4, shuffle=True),
    "sampler": lambda: DataLoader(Rows(), 4, sampler=Epochs()),
    "subset": lambda: DataLoader(Subset(ConcatDataset([Rows(), Rows()]), range(12)), 4),
    "workers": lambda: DataLoader(Rows(), 4, num_workers=1, multiprocessing_context="fork"),
    "persistent": lambda: DataLoader(Rows(), 4, num_workers=1, persistent_workers=True, multiprocessing_context="fork"),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_put_back_loader_gives_same_batches(kind: str, used: bool) -> None:
    def batches(*, checks: bool) -> list[Tensor]:
        model = nn.Linear(1, 1)
        torch.manual_seed(0)
        loader = LOADERS[kind]()
        if used:
            list(loader)
        if checks:
            with put_back(model, loader):
                next(iter(loader))
                list(loader)
        return [batch for _ in range(2) for batch in loader]

    with_checks, without = batches(checks=True), batches(checks=False)
    assert len(without) == 6
    assert all(map(torch.equal, with_checks, without))


def test_put_back_lazy_model_clear_error() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with (
        pytest.raises(TypeError, match="the model must have no lazy parameters, got LazyLinear; run one"),
        put_back(model),
    ):
        pass
