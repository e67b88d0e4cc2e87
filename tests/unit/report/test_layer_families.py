"""Tests the grouping of series by family and layer."""

from __future__ import annotations

from pathlib import Path

from tbx_callbacks.report.layer_families import families
from tbx_callbacks.runs.reader import read_run
from tests.helpers.report_runs import LAYERS, trained


def test_families_leave_out_nested_layers(tmp_path: Path) -> None:
    inside = {f"grad_norm/{layer}.dense.weight": 1.0 for layer in LAYERS}
    run = read_run(trained(tmp_path / "run", extra=inside | {"activations/bert.a.0/zero_share": 0.5}))
    assert list(families(run)["grad_norm"]) == LAYERS
    assert "activations/zero_share" not in families(run)  # a layer without depth is left out
