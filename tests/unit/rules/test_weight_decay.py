"""Tests the rule `weights_shrink`."""

from __future__ import annotations

import numpy as np

from tests.helpers.rule_cases import FALLING, N, findings_of, flat

SHRINKING = {f"weight_norm/layer.{n}": np.geomspace(5, 1, N) for n in range(3)}


def test_weights_shrink_warning_unless_loss_falls() -> None:
    assert findings_of({**SHRINKING, "train/loss": flat(0.7)})["weights_shrink"].severity == "warning"
    assert findings_of({**SHRINKING, "train/loss": FALLING})["weights_shrink"].severity == "note"


def test_weights_shrink_few_layers_no_finding() -> None:
    others = {f"weight_norm/layer.{n}": np.linspace(5, 4, N) for n in range(3, 9)}
    assert "weights_shrink" not in findings_of({**SHRINKING, **others})
