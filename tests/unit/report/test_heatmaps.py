"""Tests heat maps of layers over steps."""

from __future__ import annotations

from pathlib import Path

from tbx_callbacks.report.heatmaps import heat_map
from tbx_callbacks.report.layer_families import families
from tbx_callbacks.report.loaded_runs import read
from tests.helpers.report_runs import LAYERS, trained


def test_heat_map_has_line_per_layer(tmp_path: Path) -> None:
    trained(tmp_path / "a", steps=8)
    runs = read([str(tmp_path)])
    by_run = [families(loaded.run) for loaded in runs]
    figure = heat_map(runs, by_run, "grad_norm", "gradients")
    assert figure is not None
    assert len(figure.data[0].y) == len(LAYERS)
    assert list(figure.data[0].x) == [2, 4, 6, 8]
    assert heat_map(runs, by_run, "nothing", "gradients") is None
