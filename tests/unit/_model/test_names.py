"""Tests names of parameters without wrappers, and near names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tbx_callbacks._model.layers import layers_of
from tbx_callbacks._model.names import clean_parameter_names, near, unique, unwrap, without_parametrizations


def test_clean_names_without_wrappers() -> None:
    assert clean_parameter_names(["module._orig_mod.bert.a", "module._orig_mod.b"]) == ["bert.a", "b"]
    assert clean_parameter_names(["module.a", "other.b"]) == ["module.a", "other.b"]
    assert clean_parameter_names(["base_model.model.bert.a.lora_A.default.weight"]) == ["bert.a.lora_A.default.weight"]
    assert clean_parameter_names(["net.base_model.model.bert.a", "net.head.b"]) == ["net.bert.a", "net.head.b"]
    assert clean_parameter_names(["x._checkpoint_wrapped_module.w", "x._fsdp_wrapped_module.v"]) == ["x.w", "x.v"]
    assert clean_parameter_names(["_forward_module.module.a", "_forward_module.module.b"]) == ["a", "b"]


def test_clean_names_illegal_characters_stay_unique() -> None:
    assert clean_parameter_names(["a b.w", "a_b.w", "a:b.w"]) == ["a_b.w", "a_b_2.w", "a_b_3.w"]
    assert unique(["x", "x", "x_2"]) == ["x", "x_2", "x_2_2"]


def test_near_returns_most_similar_name() -> None:
    names = ["bert.encoder.layer.0.weight", "classifier.weight", "bert.pooler.dense.weight"]
    assert near("clasifier", names, 1) == ["classifier.weight"]


class Scale(nn.Module):
    """A parametrization with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(1)), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def own(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", Scale())
    parametrize.register_parametrization(layer, "bias", nn.Identity())


def net() -> nn.ModuleDict:
    return nn.ModuleDict({"enc": nn.Linear(3, 3), "fc": nn.Linear(3, 2)})


ONE, TWO = {"enc.weight", "enc.bias"}, {"enc.weight_original0", "enc.weight_original1", "enc.bias"}
OLD = {"enc.weight_g", "enc.weight_v", "enc.bias"}


@pytest.mark.filterwarnings("ignore")  # the older functions are deprecated
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (parametrizations.spectral_norm, ONE),
        (parametrizations.weight_norm, TWO),
        (parametrizations.orthogonal, ONE),
        (nn.utils.spectral_norm, ONE),
        (nn.utils.weight_norm, OLD),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), ONE),
        (own, ONE | {"enc.weight_0_scale", "enc.weight_0_inner_weight", "enc.weight_0_inner_bias"}),
    ],
)
@pytest.mark.parametrize(
    "wrap", [lambda model: model, torch.compile, nn.DataParallel, lambda model: nn.Sequential(model)]
)
def test_parametrized_layer_keeps_its_name(
    change: Callable[[nn.Module], Any], expected: set[str], wrap: Callable[[nn.Module], nn.Module]
) -> None:
    model = net()
    change(model["enc"])
    wrapped = wrap(model)
    names = clean_parameter_names([name for name, _ in wrapped.named_parameters()], wrapped)
    prefix = "0." if isinstance(wrapped, nn.Sequential) else ""
    assert set(names) == {prefix + name for name in {*expected, "fc.weight", "fc.bias"}}
    if not prefix:
        assert set(layers_of(names)) == {"enc", "fc"}


def test_clean_names_replica_inside_model_removed() -> None:
    model = nn.ModuleDict({"enc": nn.DataParallel(nn.Sequential(nn.Linear(2, 2))), "module": nn.Linear(2, 2)})
    names = [name for name, _ in model.named_parameters()]
    assert clean_parameter_names(names, model) == ["enc.0.weight", "enc.0.bias", "module.weight", "module.bias"]


def test_clean_names_original_beside_plain_kept() -> None:
    assert clean_parameter_names(["a.weight", "a.weight_orig", "b.weight_orig"]) == [
        "a.weight",
        "a.weight_orig",
        "b.weight",
    ]
    assert clean_parameter_names(["a.parametrizations.b.weight"]) == ["a.parametrizations.b.weight"]


def test_modules_of_parametrizations_left_out() -> None:
    model = net()
    own(model["enc"])
    assert [path for path, _ in without_parametrizations(model)] == ["", "enc", "fc"]
    assert [path for path, _ in without_parametrizations(model["enc"])] == [""]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile
def test_unwrap_returns_model_inside_wrappers() -> None:
    inner = nn.Linear(1, 1)
    assert unwrap(inner) is unwrap(nn.DataParallel(torch.compile(inner))) is inner  # type: ignore[arg-type]
    holder = nn.ModuleDict({"module": inner})
    assert unwrap(holder) is holder
