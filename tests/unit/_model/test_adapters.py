"""Tests that adapters are found by their structure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tbx_callbacks._model.adapters import count_trained, find_adapters, warn_about_untrained
from tbx_callbacks._model.parameters import parameters_of


class Adapted(nn.Module):
    """A module as PEFT builds it."""

    def __init__(self, base: nn.Module, names: tuple[str, ...] = ("default",), rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base
        self.scaling = dict.fromkeys(names, 0.5)
        self.lora_A = nn.ModuleDict({name: nn.Linear(4, rank, bias=False) for name in names})
        self.lora_B = nn.ModuleDict({name: nn.Linear(rank, 3, bias=False) for name in names})


def found(model: nn.Module) -> list[tuple[str, str, bool]]:
    names = {id(parameter.tensor): parameter.name for parameter in parameters_of(model)}
    return [(each.group, each.name, each.weight is not None) for each in find_adapters(model, names)]


def test_adapters_found_with_group_and_weight() -> None:
    model = nn.ModuleDict({"q": Adapted(nn.Linear(4, 3), ("default", "style")), "v": nn.Linear(4, 3)})
    assert found(model) == [("q", "default", True), ("q.style", "style", True)]


def test_adapters_nested_base_layer_found() -> None:
    inner = nn.Module()
    inner.base_layer = nn.Linear(4, 3)
    assert found(nn.ModuleDict({"q": Adapted(inner)})) == [("q", "default", True)]


def test_adapters_in_modules_named_lora_stay_apart() -> None:
    inner = nn.ModuleDict({"x": Adapted(nn.Linear(4, 3)), "y": Adapted(nn.Linear(4, 3))})
    assert [group for group, *_ in found(nn.ModuleDict({"lora_proj": inner}))] == ["lora_proj.x", "lora_proj.y"]


def test_adapters_root_module_named() -> None:
    assert found(Adapted(nn.Linear(4, 3))) == [("lora", "default", True)]


def test_adapters_packed_weight_unknown() -> None:
    assert found(nn.ModuleDict({"q": Adapted(nn.Linear(2, 3))})) == [("q", "default", False)]


@pytest.mark.parametrize("change", ["experts", "lora_E", "no_B", "scaling"])
def test_adapters_of_other_kinds_left_out(change: str) -> None:
    layer = Adapted(nn.Linear(4, 3))
    if change == "experts":
        layer.num_experts = 4  # type: ignore[assignment]
    elif change == "lora_E":
        layer.lora_E = nn.ParameterDict({"default": torch.ones(2, 1)})
    elif change == "no_B":
        del layer.lora_B["default"]
    else:
        layer.scaling = 0.5  # type: ignore[assignment]
    assert found(nn.ModuleDict({"q": layer})) == []


def test_adapters_untrained_warned_by_name(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict({"q": Adapted(nn.Linear(4, 3), ("trained", "frozen", "forgotten"))})
    for part in (model["q"].lora_A, model["q"].lora_B):
        part["frozen"].requires_grad_(False)
    names = {id(parameter.tensor): parameter.name for parameter in parameters_of(model)}
    adapters = find_adapters(model, names)
    warn_about_untrained(adapters, [id(model["q"].lora_A["trained"].weight)])
    assert [record.split(": ")[1] for record in caplog.messages] == ["frozen", "forgotten"]
    assert all(len(record.split()) <= 25 for record in caplog.messages)


def test_count_trained_adapters_by_name() -> None:
    model = nn.ModuleDict({"q": Adapted(nn.Linear(4, 3), ("default", "style")), "v": nn.Linear(4, 3)})
    model["w_lora"] = nn.ModuleDict({"lora": nn.Linear(2, 2)})  # a part of some architectures, no adapter
    assert count_trained(model) == 4
    model["q"].lora_A.requires_grad_(False)
    assert count_trained(model) == 2
    assert count_trained(nn.Linear(4, 3)) == 0
