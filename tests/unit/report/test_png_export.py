"""Tests the pictures of a report: which there are, and their colours."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tbx_callbacks.report import write_report
from tbx_callbacks.report.colours import CHANGE, RUNS, SEVERITY
from tbx_callbacks.report.output import OutputError
from tbx_callbacks.writers import TensorBoardWriter
from tests.helpers.report_runs import trained
from tests.helpers.variations import variations


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
    layers = {f"grad_norm/layer.{n}": 10.0**-n for n in range(4)} | {"grad_norm/a$b_$c&<d>": float("nan")}
    colours = pictures(tmp_path, {step: layers for step in range(1, steps + 1)})["grad_norm"]
    assert SEVERITY["error"] in colours
    assert {"#440154", "#fde725"} <= colours  # the ends of the scale


def test_png_weight_norm_change_both_ends(tmp_path: Path) -> None:
    steps = {step: {f"weight_norm/layer.{n}": 10.0 + step * (n - 1) for n in range(3)} for step in range(5)}
    assert {CHANGE[0][1], CHANGE[2][1]} <= pictures(tmp_path, steps)["weight_norm"]


def test_png_line_chart_shows_lines_and_labels(tmp_path: Path) -> None:
    losses = {step: {"train/loss": 1 / step, "eval/a$^$_loss": 0.5} for step in range(1, 30)}
    assert {*RUNS[:2], "#ffffff"} <= pictures(tmp_path, losses)["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", variations(["loss.png", "speed.png", "gradient_norm.png"], "loss.png"))
@pytest.mark.parametrize("make", variations([os.mkfifo, os.mkdir], os.mkfifo))
def test_png_name_taken_nothing_written(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    run = trained(tmp_path / "run", steps=20)
    write_report([run], tmp_path / "first.html", png=tmp_path / "first")
    taken = name if (tmp_path / "first" / name).exists() else sorted(os.listdir(tmp_path / "first"))[-1]
    (tmp_path / "png").mkdir()
    make(tmp_path / "png" / taken)
    with pytest.raises(OutputError, match=r"OUTPUT must be a file, got .*, which is a"):
        write_report([run], tmp_path / "page.html", png=tmp_path / "png")
    assert not (tmp_path / "page.html").exists()
    assert os.listdir(tmp_path / "png") == [taken]
