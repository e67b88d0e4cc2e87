"""Tests heat maps of layers over steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbx_callbacks.report.heatmaps import heat_map
from tbx_callbacks.report.layer_families import families
from tbx_callbacks.report.loaded_runs import read
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
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


def weight_norms(folder: Path, points: dict[int, list[float]]) -> Any:
    writer = TensorBoardWriter(folder)
    for step, norms in points.items():
        writer.write(step, {"train/loss": 1.0, **{f"weight_norm/layer.{n}": norm for n, norm in enumerate(norms)}})
    writer.close()
    runs = read([folder])
    return heat_map(runs, [families(loaded.run) for loaded in runs], "weight_norm", "weights")


def test_weight_norms_relative_to_first_point(tmp_path: Path) -> None:
    figure = weight_norms(tmp_path, {1: [10.0, 4.0, 0.0], 2: [11.0, 3.0, 2.0], 3: [12.0, np.nan, 3.0]})
    change, bad = figure.data
    assert change.z[0].tolist() == pytest.approx([0, 0.1, 0.2])
    assert change.z[1, :2].tolist() == pytest.approx([0, -0.25])
    assert change.z[2].tolist() == pytest.approx([-1, 0, 0.5])
    assert change.customdata[:, 1].tolist() == [11.0, 3.0, 2.0]
    assert (change.zmin, change.zmid, change.zmax) == (-1, 0, 1)
    assert np.argwhere(bad.z == 1).tolist() == [[1, 2]]
    assert "Change since" in figure.layout.meta["about"]


def test_weight_norms_of_single_point_absolute(tmp_path: Path) -> None:
    figure = weight_norms(tmp_path, {1: [10.0, 11.0, 12.0]})
    assert figure.data[0].z.tolist() == [[10.0], [11.0], [12.0]]
    assert figure.layout.meta["about"] == ""
