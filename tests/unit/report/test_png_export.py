"""Tests the pictures of a report: which there are, and their colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tbx_callbacks.report import write_report
from tbx_callbacks.report.colours import RUNS, SEVERITY
from tbx_callbacks.writers import TensorBoardWriter


def pictures(folder: Path, points: dict[int, dict[str, float]]) -> dict[str, set[str]]:
    """Writes a run and its report; returns the colours of each picture."""
    writer = TensorBoardWriter(folder / "run")
    for step, values in points.items():
        writer.write(step, values)
    writer.close()
    write_report([folder / "run"], folder / "report.html", png=folder / "png")
    return {
        path.stem: {
            "#" + bytes(pixel).hex()
            for pixel in np.unique((imread(path)[..., :3] * 255).round().astype(np.uint8).reshape(-1, 3), axis=0)
        }
        for path in (folder / "png").iterdir()
    }


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_png_heat_map_shows_values_and_nan(tmp_path: Path, steps: int) -> None:
    layers = {f"weight_norm/layer.{n}": 10.0**-n for n in range(4)} | {"weight_norm/a$b_$c&<d>": float("nan")}
    colours = pictures(tmp_path, {step: layers for step in range(1, steps + 1)})["weight_norm"]
    assert SEVERITY["error"] in colours
    assert {"#440154", "#fde725"} <= colours  # the ends of the scale


def test_png_line_chart_shows_lines_and_labels(tmp_path: Path) -> None:
    losses = {step: {"train/loss": 1 / step, "eval/a$^$_loss": 0.5} for step in range(1, 30)}
    assert {*RUNS[:2], "#ffffff"} <= pictures(tmp_path, losses)["loss"]
