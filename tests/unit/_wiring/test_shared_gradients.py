"""Tests which parameters of two optimizers are found: those that one gradient moves twice."""

from __future__ import annotations

import torch
from torch import nn

from tbx_callbacks._wiring.shared_gradients import SharedGradients


def found(*, tasks: bool, shared: bool = True) -> dict[str, tuple[float, str]]:
    """Trains a body and a head with two optimizers, each with a loss of its own (`tasks`), or with one loss."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2)})
    first = torch.optim.SGD(model.parameters() if shared else model["body"].parameters(), 0.1)
    second = torch.optim.Adam(model["head"].parameters())
    gradients = SharedGradients()
    for _ in range(3):
        for index, (name, optimizer) in enumerate({"SGD": first, "Adam": second}.items()):
            if tasks or not index:
                model.zero_grad()
                model["head"](model["body"](torch.randn(4, 3))).square().mean().backward()
            optimizer.step()
            gradients.add_step(name, optimizer)
    checks = gradients.result(dict(model.named_parameters()))
    return {name: (float(check.number), check.details) for name, check in checks.items()}


def test_shared_gradients_moved_twice_named() -> None:
    assert found(tasks=False) == {"parameter_in_two_optimizers": (2.0, "head.weight, head.bias")}


def test_shared_gradients_of_own_loss_allowed() -> None:
    assert found(tasks=True) == {"parameter_in_two_optimizers": (0.0, "")}


def test_shared_gradients_separate_parameters_allowed() -> None:
    assert found(tasks=False, shared=False) == {"parameter_in_two_optimizers": (0.0, "")}


def test_shared_gradients_without_step_not_judged() -> None:
    assert SharedGradients().result({}) == {}
