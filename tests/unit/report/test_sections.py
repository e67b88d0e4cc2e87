"""Tests the choice of figures for the sections of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.report import figures, write_report
from tbx_callbacks.writers.tensorboard import TensorBoardWriter


@pytest.mark.parametrize("found", [0.0, 1.0])
def test_nonfinite_chart_with_alert_shown_unless_zero(tmp_path: Path, found: float) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in range(1, 6):
        writer.write(step, {"train/loss": 1.0, "nonfinite/losses": 0.0, "nonfinite/gradients/total": found})
    writer.write(5, {"alerts/divergence": Text("**error: divergence**, found at step 5\n\nThe training loss rises.")})
    writer.close()
    assert ("nonfinite" in figures(tmp_path)) == bool(found)


@pytest.mark.parametrize(("tags", "left_out"), [(24, 0), (25, 1), (60, 36), (1060, 1036)])
def test_other_metrics_left_out_are_counted(tmp_path: Path, tags: int, left_out: int) -> None:
    writer = TensorBoardWriter(tmp_path / "run")
    for step in range(1, 4):
        writer.write(step, {"train/loss": 1.0, **{f"own/t{n}": float(step) for n in range(tags)}})
    writer.close()
    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert page.count('data-figure="other_') == 24
    words = f"The first 24 metrics; {left_out:,} more are left out. `tbx-callbacks view` shows all."
    assert (words in page) == (left_out > 0)
    assert ("more are left out" in page) == (left_out > 0)
