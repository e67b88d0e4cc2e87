"""Tests rules about parameters that do not change."""

from __future__ import annotations

import pytest

from tests.helpers.rule_cases import FALLING, findings_of, flat


def test_frozen_layers_from_bottom_note() -> None:
    still = {f"weight_norm/{name}": flat(2.0) for name in ("bert.embeddings", "bert.encoder.layer.0")}
    moving = {f"weight_norm/{name}": FALLING for name in ("bert.encoder.layer.1", "classifier")}
    assert findings_of({**still, **moving})["frozen_layers"].severity == "note"


def weights(still: list[str], moving: list[str]) -> dict[str, object]:
    """Weight norms in the order of the model: frozen layers first."""
    return {f"weight_norm/{name}": flat(3.0) for name in still} | {f"weight_norm/{name}": FALLING for name in moving}


@pytest.mark.parametrize(
    ("still", "moving", "rule"),
    [
        (["conv1", "norm1", "conv2"], ["fc"], "head_only"),
        (["features"], ["classifier"], "head_only"),
        (["stem", "conv1"], ["conv2", "fc"], "frozen_layers"),
        (["encoder.0", "encoder.1"], ["head"], "head_only"),
    ],
)
def test_lowest_layers_without_numbers_frozen_note(still: list[str], moving: list[str], rule: str) -> None:
    finding = findings_of(weights(still, moving))[rule]
    assert finding.severity == "note"
    assert finding.tags == tuple(f"weight_norm/{name}" for name in still)


@pytest.mark.parametrize(("still", "moving"), [("fc", ["conv1", "conv2"]), ("right", ["left", "head"])])
def test_layer_above_moving_layers_frozen_warning(still: str, moving: list[str]) -> None:
    scalars = weights([], moving[:1]) | weights([still], moving[1:])
    assert findings_of(scalars)["frozen_layers"].severity == "warning"


def test_unused_pooler_is_note() -> None:
    layers = ["0.model.embeddings", "0.model.encoder.layer.0", "0.model.encoder.layer.1"]
    scalars = weights([], layers) | weights(["0.model.pooler.dense"], [])
    finding = findings_of(scalars)["frozen_layers"]
    assert finding.severity == "note"
    assert "does not use it" in finding.means
    has_gradient = scalars | {"grad_norm/0.model.pooler.dense": flat(1.0), "grad_norm/0.model.embeddings": flat(1.0)}
    assert findings_of(has_gradient)["frozen_layers"].severity == "warning"


@pytest.mark.parametrize(
    "adapter", ["weight_norm/model.layers.0.q_proj.lora_A", "lora/update/model.layers.0.q_proj", "wiring/adapters"]
)
def test_frozen_layers_beside_adapters_no_finding(adapter: str) -> None:
    scalars = weights(["model.embed_tokens"], ["model.layers.0"]) | weights(["lm_head"], [])
    assert "frozen_layers" in findings_of(scalars)
    assert "frozen_layers" not in findings_of(scalars | {adapter: FALLING})
