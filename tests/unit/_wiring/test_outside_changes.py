"""Tests that weights which change between steps are noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tbx_callbacks._wiring.outside_changes import OutsideChanges


def reset(model: nn.Sequential) -> None:
    for module in model:
        module.reset_parameters()


def reset_data(model: nn.Sequential) -> None:
    for parameter in model.parameters():
        parameter.data.normal_()


def load(model: nn.Sequential) -> None:
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})


def reset_last(model: nn.Sequential) -> None:
    model[-1].reset_parameters()


def exchange_and_back(model: nn.Sequential) -> None:
    saved = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
        for parameter, copy in zip(model.parameters(), saved, strict=True):
            parameter.copy_(copy)


def move_and_back(model: nn.Sequential) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3).sub_(0.3)  # leaves rounding


def read(model: nn.Sequential) -> None:
    model(torch.ones(1, 3))


def shares(change: Callable[[nn.Sequential], None], at: set[int], steps: int = 6) -> tuple[float, str]:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(20)))
    optimizer, changes = torch.optim.Adam(model.parameters()), OutsideChanges()
    for step in range(1, steps + 1):
        model(torch.randn(2, 3)).sum().backward()
        changes.before_step("Adam", step)
        optimizer.step()
        changes.after_step("Adam", optimizer)
        if step in at:
            change(model)
    check = changes.take()["weights_changed_outside"]
    return float(check.number), check.details


@pytest.mark.parametrize("change", [reset, reset_data, load])
def test_outside_changes_once_names_interval(change: Callable[[nn.Sequential], None]) -> None:
    assert shares(change, {3}) == (1 / 5, "between steps 3 and 4")


@pytest.mark.parametrize("change", [read, exchange_and_back, move_and_back])
def test_outside_changes_none_left_finds_nothing(change: Callable[[nn.Sequential], None]) -> None:
    assert shares(change, {1, 2, 3, 4, 5}) == (0, "")


def test_outside_changes_in_every_step_whole_share() -> None:
    assert shares(load, {1, 2, 3, 4, 5, 6})[0] == 1


def test_outside_changes_not_a_number_is_itself() -> None:
    def spoil(model: nn.Sequential) -> None:
        assert torch.isnan(model[0].weight).any()

    model = nn.Sequential(nn.Linear(2, 2))
    optimizer, changes = torch.optim.SGD(model.parameters(), 0.1), OutsideChanges()
    for step in range(1, 4):
        model(torch.full((1, 2), torch.nan)).sum().backward()
        changes.before_step("SGD", step)
        optimizer.step()
        changes.after_step("SGD", optimizer)
    spoil(model)
    assert changes.take()["weights_changed_outside"].number == 0


def test_outside_changes_by_other_optimizer_are_steps() -> None:
    model = nn.Linear(2, 2)
    pair = {"SGD": torch.optim.SGD(model.parameters(), 0.1), "Adam": torch.optim.Adam(model.parameters())}
    changes = OutsideChanges()
    for step in range(1, 4):
        for name, optimizer in pair.items():
            model(torch.ones(1, 2)).sum().backward()
            changes.before_step(name, step)
            optimizer.step()
            changes.after_step(name, optimizer)
    assert changes.take()["weights_changed_outside"].number == 0


def test_outside_changes_by_optimizers_of_each_half() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    parts = {"both": [*first.parameters(), *second.parameters()], "a": first.parameters(), "b": second.parameters()}
    optimizers = {name: torch.optim.SGD(part, 0.1) for name, part in parts.items()}
    changes = OutsideChanges()
    for step in range(1, 4):
        for name in ("both", "a", "both", "b"):
            second(first(torch.ones(1, 2))).sum().backward()
            changes.before_step(name, step)
            optimizers[name].step()
            changes.after_step(name, optimizers[name])
    assert changes.take()["weights_changed_outside"].number == 0


def test_outside_changes_step_of_base_class_inside() -> None:
    model = nn.Linear(2, 2)
    optimizer, changes = torch.optim.SGD(model.parameters(), 0.1), OutsideChanges()
    for step in range(1, 4):
        model(torch.ones(1, 2)).sum().backward()
        changes.before_step("SGD", step)
        with torch.no_grad():
            model.weight.mul_(0.9)  # a decay of its own, then the step of the base class
        changes.before_step("SGD", step)
        optimizer.step()
        changes.after_step("SGD", optimizer)
        changes.after_step("SGD", optimizer)
    assert changes.take()["weights_changed_outside"].number == 0


def test_outside_changes_without_second_step_not_judged() -> None:
    assert OutsideChanges().take() == {}


def test_outside_changes_last_layer_alone_found() -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(3)))  # few enough to watch all of them
    optimizer, changes = torch.optim.SGD(model.parameters(), 0.1), OutsideChanges()
    for step in (1, 2):
        model(torch.ones(1, 3)).sum().backward()
        changes.before_step("SGD", step)
        optimizer.step()
        changes.after_step("SGD", optimizer)
        reset_last(model)
    changes.before_step("SGD", 3)
    assert changes.take()["weights_changed_outside"].number == 1


def test_outside_changes_of_damaged_weights_compared() -> None:
    calls: list[int] = []

    def damage_and_repair(model: nn.Sequential) -> None:
        calls.append(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.full_like(parameter, torch.nan if len(calls) == 1 else 0.5))

    assert shares(damage_and_repair, {2, 4})[0] == pytest.approx(shares(reset, {2, 4})[0])
