"""Tests rules about parameters that do not change."""

from __future__ import annotations

from tests.helpers.rule_cases import FALLING, findings_of, flat


def test_frozen_layers_from_bottom_note() -> None:
    still = {f"weight_norm/{name}": flat(2.0) for name in ("bert.embeddings", "bert.encoder.layer.0")}
    moving = {f"weight_norm/{name}": FALLING for name in ("bert.encoder.layer.1", "classifier")}
    assert findings_of({**still, **moving})["frozen_layers"].severity == "note"
