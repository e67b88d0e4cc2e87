"""Tests which parameters without gradient are cut off, and which are not used."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks._wiring.missing_gradients import MissingGradients


def layers() -> nn.Sequential:
    names = ("embeddings", "encoder", "pooler", "classifier")
    return nn.Sequential(OrderedDict((name, nn.Linear(3, 3)) for name in names))


@pytest.mark.parametrize(
    ("without", "cut", "unused"),
    [
        ([], 0, 0),
        (["pooler"], 0, 2),
        (["embeddings"], 2, 0),
        (["embeddings", "encoder"], 4, 0),
        (["embeddings", "pooler"], 2, 2),
        (["embeddings", "encoder", "pooler", "classifier"], 8, 0),
    ],
)
def test_missing_gradients_prefix_is_cut_off(without: list[str], cut: int, unused: int) -> None:
    model = layers()
    for name, parameter in model.named_parameters():
        parameter.grad = None if name.partition(".")[0] in without else torch.ones_like(parameter)
    missing = MissingGradients(dict(model.named_parameters()))
    missing.add_step(torch.optim.SGD(model.parameters(), 0.1))
    missing.watch(model)
    model(torch.ones(1, 3))
    missing.end()
    assert not any(module._forward_hooks for module in model.modules())
    checks = missing.result()
    assert (checks["no_gradient"].number, checks["unused_parameters"].number) == (cut, unused)
    assert all(name in checks["no_gradient"].details or cut in (0, 8) for name in without if name != "pooler")


def test_missing_gradients_of_one_step_not_missing() -> None:
    model = layers()  # experts that get no token in a step
    missing = MissingGradients(dict(model.named_parameters()))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for used in ("embeddings", "encoder", "pooler", "classifier"):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.ones_like(parameter) if name.startswith(used) else None
        missing.add_step(optimizer)
    assert [check.number for check in missing.result().values()] == [0, 0]


def test_missing_gradients_part_of_layer_not_cut() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    for parameter in (model[0].bias, *model[1].parameters()):
        parameter.grad = torch.ones_like(parameter)
    missing = MissingGradients(dict(model.named_parameters()))
    missing.add_step(torch.optim.SGD(model.parameters(), 0.1))
    assert [check.number for check in missing.result().values()] == [0, 1]


def test_missing_gradients_of_foreign_optimizer_not_judged() -> None:
    missing = MissingGradients(dict(layers().named_parameters()))
    missing.add_step(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1))
    assert missing.result() == {}


def test_missing_gradients_frozen_layers_allowed() -> None:
    model = layers()
    model[:2].requires_grad_(False)
    x: Tensor = model(torch.ones(1, 3))
    x.sum().backward()
    missing = MissingGradients(dict(model.named_parameters()))
    missing.add_step(torch.optim.SGD(model.parameters(), 0.1))
    assert [check.number for check in missing.result().values()] == [0, 0]


@pytest.mark.parametrize("chosen", [{1}, {2, 4}, {1, 3, 5}])
def test_missing_gradients_of_experts_are_unused(chosen: set[int]) -> None:
    model = nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(3, 3) for _ in range(8)), "classifier": nn.Linear(3, 2)})
    x = torch.stack([model["experts"][index](torch.ones(1, 3)) for index in chosen]).sum(0)
    model["classifier"](x).sum().backward()
    missing = MissingGradients(dict(model.named_parameters()))
    missing.add_step(torch.optim.SGD(model.parameters(), 0.1))
    assert [check.number for check in missing.result().values()] == [0, 2 * (8 - len(chosen))]


def test_missing_gradients_behind_detach_are_cut() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(3, 3) for _ in range(8)), "classifier": nn.Linear(3, 2)})
    missing = MissingGradients(dict(model.named_parameters()))
    for _ in range(2):
        x = torch.ones(1, 3)
        for index, layer in enumerate(model["layers"]):
            x = layer(x).detach() if index == 4 else layer(x)
        model["classifier"](x).sum().backward()
        missing.add_step(torch.optim.SGD(model.parameters(), 0.1))
        missing.watch(model)
    assert [check.number for check in missing.result().values()] == [10, 0]


def test_missing_gradients_of_layers_that_never_run() -> None:
    model = nn.ModuleDict({"vision": nn.Linear(3, 3), "text": nn.Linear(3, 3), "head": nn.Linear(3, 2)})
    missing = MissingGradients(dict(model.named_parameters()))
    for _ in range(2):
        model["head"](model["text"](torch.ones(1, 3))).sum().backward()
        missing.add_step(torch.optim.SGD(model.parameters(), 0.1))
        missing.watch(model)
    assert [check.number for check in missing.result().values()] == [0, 2]


def test_missing_gradients_of_token_in_container_unused() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.body, self.head = nn.Parameter(torch.ones(3)), nn.Linear(3, 3), nn.Linear(3, 2)

    model = nn.Sequential(OrderedDict({"encoder": Masked()}))
    missing = MissingGradients(dict(model.named_parameters()))
    for _ in range(2):
        model.encoder.head(model.encoder.body(torch.ones(1, 3))).sum().backward()
        missing.add_step(torch.optim.SGD(model.parameters(), 0.1))
        missing.watch(model)
    found = missing.result()
    assert [check.number for check in found.values()] == [0, 1]
    assert found["unused_parameters"].details == "encoder.token"
