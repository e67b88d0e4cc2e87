"""Tests the metric of LoRA adapters without PEFT; tests/ecosystem/test_lora.py uses PEFT's classes."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks._model.adapters import Adapter
from tbx_callbacks.metrics.lora import Lora, StableRank
from tests.helpers.contexts import context, finished


def adapter(group: str = "q", scaling: float = 1.5, **changes: object) -> Adapter:
    made = torch.Generator().manual_seed(0)
    a, b, weight = (torch.randn(*shape, generator=made) for shape in ((2, 6), (5, 2), (5, 6)))
    return Adapter(
        **(
            {"name": "default", "group": group, "a": a, "b": b, "weight": weight, "scalings": {"default": scaling}}
            | changes
        )
    )  # type: ignore[arg-type]


def test_lora_matches_naive_product() -> None:
    one = adapter()
    product = 1.5 * one.b.double() @ one.a.double()
    singular = torch.linalg.svdvals(product)
    assert one.weight is not None
    assert finished(Lora()(context(adapters=[one]))) == {
        "lora/update/q": pytest.approx(float(product.norm() / one.weight.double().norm()), rel=1e-6),
        "lora/stable_rank/q": pytest.approx(float(product.norm() ** 2 / singular[0] ** 2), rel=1e-6),
    }


def test_lora_packed_weight_rank_only() -> None:
    assert set(finished(Lora()(context(adapters=[adapter(weight=None)])))) == {"lora/stable_rank/q"}


def test_lora_without_adapters_writes_nothing() -> None:
    assert finished(Lora()(context())) == {}


def test_lora_frozen_weight_changed_through_data() -> None:
    one, state = adapter(), {}
    assert one.weight is not None
    first = finished(Lora()(context(adapters=[one], state=state)))["lora/update/q"]
    one.weight.data.mul_(2)  # PEFT merges an adapter in this way; it changes no version
    assert finished(Lora()(context(adapters=[one], state=state)))["lora/update/q"] == pytest.approx(first / 2)


def test_stable_rank_of_zero_left_out() -> None:
    assert StableRank(0.0, 0.0).result((), (0.0, float("nan"))) is None
    assert StableRank(0.0, 0.0).result((), (4.0, 2.0)) == 2.0
