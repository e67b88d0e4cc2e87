"""Tests the layers of parameters, found from names."""

from __future__ import annotations

import pytest

from tbx_callbacks._model.layers import layer_of, layers_of

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


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_layer_of_parameter_name_found(name: str, layer: str) -> None:
    assert layer_of(name) == layer


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
        "stem.base_layer.weight": "stem.base_layer",  # the model's own name: there are no LoRA weights
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
