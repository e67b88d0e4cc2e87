"""Tests the comparison of a model's parameters with those of its optimizers."""

from __future__ import annotations

import torch
from torch import nn

from tbx_callbacks._wiring.optimized_parameters import compare


def numbers(
    model: nn.Module,
    *optimizers: torch.optim.Optimizer,
    with_gradient: set[int] | None = None,
    stepped: set[str] | None = None,
) -> list[float]:
    named = {f"opt{index}": optimizer for index, optimizer in enumerate(optimizers)}
    everything = {id(tensor) for tensor in model.parameters()} if with_gradient is None else with_gradient
    checks = compare(
        dict(model.named_parameters()),
        named,
        with_gradient=everything,
        stepped=set(named) if stepped is None else stepped,
    )
    return [float(check.number) for check in checks.values()]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def test_compare_complete_optimizer_finds_nothing() -> None:
    model = net()
    assert numbers(model, torch.optim.SGD(model.parameters(), 0.1)) == [0, 0]


def test_compare_head_replaced_after_optimizer() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model[1] = nn.Linear(3, 5)
    assert numbers(model, optimizer) == [2, 2]


def test_compare_frozen_or_unused_parameter_not_counted() -> None:
    model = net()
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1)
    assert numbers(model, optimizer) == [2, 0]
    assert numbers(model, optimizer, with_gradient={id(model[0].weight)}) == [0, 0]  # a teacher has no gradient
    model[1].requires_grad_(False)
    assert numbers(model, optimizer) == [0, 0]


def test_compare_parameter_of_loss_function_allowed() -> None:
    model, temperature = net(), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], 0.1)
    everything = set(map(id, [*model.parameters(), temperature]))
    assert numbers(model, optimizer, with_gradient=everything) == [0, 0]
