"""Tests names of parameters without wrappers, and near names."""

from __future__ import annotations

from tbx_callbacks._model.names import clean_parameter_names, near, unique


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
