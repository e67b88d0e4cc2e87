"""Names and groups of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks._model.parameters import NoMatchError, Select, Selection, layer_of, layers_of, match, parameters_of
from tests.helpers.nets import bert_like

LAYERS = [
    ("bert.encoder.layer.11.attention.self.query.weight", "bert.encoder.layer.11"),
    ("bert.embeddings.word_embeddings.weight", "bert.embeddings"),
    ("bert.pooler.dense.bias", "bert.pooler"),
    ("classifier.weight", "classifier"),
    ("encoder.block.0.layer.1.DenseReluDense.wi.weight", "encoder.block.0"),
    ("model.layers.31.mlp.experts.5.w1.weight", "model.layers.31"),
    ("model.norm.weight", "model.norm"),
    ("0.weight", "0"),
    ("weight", "weight"),
    ("layer1.0.conv1.weight", "layer1.0"),
    ("cls.predictions.transform.dense.weight", "cls.predictions"),
]


def resolve(*args: Any, **kwargs: Any) -> Selection:
    """The groups; raises what `match` says of the first regex that matches nothing."""
    selection, errors = match(*args, **kwargs)
    for error in filter(None, errors.values()):
        raise error
    return selection


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_layer_of_parameter_name(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_match_groups_cover_every_parameter_once() -> None:
    parameters = parameters_of(bert_like())
    for by in ("total", "layer", "module", "parameter"):
        members = [place for group in resolve(Select(by=by), parameters).groups for place in group.members]
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


def test_layers_of_peft_names_layer_of_module() -> None:
    expected = {
        "bert.embeddings.word_embeddings.base_layer.weight": "bert.embeddings",
        "bert.embeddings.word_embeddings.lora_embedding_A.default": "bert.embeddings",
        "bert.encoder.layer.0.attention.self.query.base_layer.weight": "bert.encoder.layer.0",
        "bert.encoder.layer.0.attention.self.query.lora_A.default.weight": "bert.encoder.layer.0",
        "bert.pooler.original_module.dense.weight": "bert.pooler.original_module",
        "bert.pooler.modules_to_save.default.dense.weight": "bert.pooler",
        "classifier.base_layer.weight": "classifier",
        "classifier.lora_A.default.weight": "classifier",
        "classifier.lora_magnitude_vector.default.weight": "classifier",
        "score.original_module.weight": "score.original_module",
        "score.modules_to_save.default.weight": "score",
        "stem.base_layer.weight": "stem.base_layer",  # a model's own name, where no adapter is
    }
    assert dict(zip(expected, layers_of(list(expected)), strict=True)) == expected
    inside = [f"net.{name}" for name in expected]
    assert layers_of(inside) == [f"net.{layer}" for layer in expected.values()]


def test_layers_of_pipeline_keep_model_layers() -> None:
    expected = {
        "0.model.embeddings.word_embeddings.weight": "0.model.embeddings.word_embeddings",
        "0.model.encoder.layer.0.output.dense.weight": "0.model.encoder.layer.0",
        "0.model.encoder.layer.1.output.dense.weight": "0.model.encoder.layer.1",
        "2.linear.weight": "2",
        "2.linear.bias": "2",
    }
    assert layers_of(list(expected)) == list(expected.values())
    assert layers_of(list(expected)[:3]) == list(expected.values())[:3]
    blocks = ["0.attn.weight", "0.mlp.0.weight", "1.attn.weight", "1.mlp.0.weight"]
    assert layers_of(blocks) == ["0", "0", "1", "1"]
    assert layers_of(["layers.0.attn.weight", "layers.0.mlp.weight"]) == ["layers.0", "layers.0"]
