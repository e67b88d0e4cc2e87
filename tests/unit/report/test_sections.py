"""Tests the choice of figures for the sections of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.report import figures
from tbx_callbacks.writers.tensorboard import TensorBoardWriter


@pytest.mark.parametrize("found", [0.0, 1.0])
def test_nonfinite_chart_with_alert_shown_unless_zero(tmp_path: Path, found: float) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in range(1, 6):
        writer.write(step, {"train/loss": 1.0, "nonfinite/losses": 0.0, "nonfinite/gradients/total": found})
    writer.write(5, {"alerts/divergence": Text("**error: divergence**, found at step 5\n\nThe training loss rises.")})
    writer.close()
    assert ("nonfinite" in figures(tmp_path)) == bool(found)
