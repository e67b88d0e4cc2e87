"""Tests names and groups of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks._model.parameters import (
    NoMatchError,
    Select,
    Selection,
    match,
    parameters_by_optimizer,
    parameters_of,
)
from tests.helpers.nets import bert_like


def resolve(*args: Any, **kwargs: Any) -> Selection:
    """Returns the groups; raises the error of `match` for the first regex that matches nothing."""
    selection, errors = match(*args, **kwargs)
    for error in filter(None, errors.values()):
        raise error
    return selection


def test_match_groups_cover_every_parameter_once() -> None:
    parameters = parameters_of(bert_like())
    for by in ("total", "layer", "module", "parameter"):
        members = [index for group in resolve(Select(by=by), parameters).groups for index in group.members]
        assert sorted(members) == list(range(len(parameters))), by


def test_match_include_exclude_and_patterns() -> None:
    parameters = parameters_of(bert_like())
    chosen = resolve(Select(by="parameter", include=r"layer\.0\.", exclude="bias|LayerNorm"), parameters)
    names = [group.name for group in chosen.groups]
    assert names
    assert all(".layer.0." in name and "bias" not in name for name in names)
    groups = resolve(Select(by={"query": r"\.query\.", "all": ""}), parameters).groups
    assert [(group.name, len(group.members)) for group in groups] == [("query", 4), ("all", len(parameters))]


def test_match_without_match_lists_near_names() -> None:
    parameters = parameters_of(bert_like())
    with pytest.raises(
        NoMatchError, match=r"include must match .* got 'encoder\\\\.layers'; near names: bert\.encoder\.layer"
    ):
        resolve(Select(include=r"encoder\.layers"), parameters)
    with pytest.raises(NoMatchError, match=r"by\.b must match"):
        resolve(Select(by={"a": "bert", "b": "nothing"}), parameters)
    with pytest.raises(NoMatchError, match="leaves no parameter"):
        resolve(Select(include="pooler", exclude="bert"), parameters)


def test_selection_sums_leave_out_absent_groups() -> None:
    parameters = parameters_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    selection = resolve(Select(by="layer"), parameters)
    sums = selection.sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), [True, False, False, False])
    assert {name: value.item() for name, value in sums.items()} == {"0": 3.0}


def test_match_layer_named_total_renamed() -> None:
    parameters = parameters_of(nn.ModuleDict({"total": nn.Linear(2, 2), "other": nn.Linear(2, 2)}))
    assert [group.name for group in resolve(Select(by="layer"), parameters).groups] == ["total_2", "other"]
    assert [group.name for group in resolve(Select(by="total"), parameters).groups] == ["total"]


def test_match_among_optimizer_parameters_prefixed() -> None:
    parameters = parameters_of(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}))
    (group,) = resolve(Select(by="layer"), parameters, among=[2, 3], prefix="SGD/").groups
    assert (group.name, group.members) == ("SGD/b", (2, 3))


def test_match_nested_model_same_layers() -> None:
    inside = [g.name for g in resolve(Select(by="layer"), parameters_of(nn.ModuleDict({"net": bert_like()}))).groups]
    alone = [g.name for g in resolve(Select(by="layer"), parameters_of(bert_like())).groups]
    assert inside == [f"net.{name}" for name in alone]


def test_parameters_by_optimizer_without_optimizers_empty() -> None:
    assert parameters_by_optimizer(parameters_of(nn.Linear(2, 2)), {}) == {}  # before a trainer has created one


def test_parameters_by_optimizer_rest_to_first() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))  # parameters 0 to 3
    optimizers = {"a": torch.optim.SGD([net[1].weight]), "b": torch.optim.SGD([net[1].weight, net[0].bias])}
    assert parameters_by_optimizer(parameters_of(net), optimizers) == {"a": (0, 2, 3), "b": (1, 2)}
