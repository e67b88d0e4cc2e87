"""Tests the choice of figures for the sections of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.report import figures, write_report
from tbx_callbacks.report.loaded_runs import read
from tbx_callbacks.report.sections import sections
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.report_runs import trained


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


@pytest.mark.parametrize(("families", "told"), [(24, ""), (30, " 6 more kinds of numbers are left out")])
def test_kinds_of_layer_numbers_limited(tmp_path: Path, families: int, told: str) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in (1, 2):
        values = {f"own_{n}/layer.{layer}": 1.0 for n in range(families) for layer in range(3)}
        writer.write(step, {"grad_norm/layer.0": 1.0, "grad_norm/layer.1": 1.0, "grad_norm/layer.2": 1.0, **values})
    writer.close()
    (layers,) = (section for section in sections(read([tmp_path])) if section.id == "layers")
    assert list(layers.figures) == ["grad_norm"]
    assert len(layers.more) == 24
    assert told in layers.about
    assert ("left out" in layers.about) == bool(told)


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "drawn"), [(300, 300), (301, 300)])
def test_histograms_of_many_layers_limited(tmp_path: Path, layers: int, drawn: int) -> None:
    counts = HistogramCounts((1, 2), low=0.0, high=1.0, total=1.0, total_squares=1.0)
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {f"{family}/layer.{n}": counts for family in ("weights", "grads") for n in range(layers)})
    writer.write(2, {"train/loss": 1.0})
    writer.close()
    (section,) = (section for section in sections(read([tmp_path])) if section.id == "histograms")
    shown = {name: len({trace.meta["pick"]["layer"] for trace in fig.data}) for name, fig in section.figures.items()}
    assert shown == {"histogram_weights": drawn, "histogram_grads": drawn}
    assert ("The first 300 layers of each kind." in section.about) == (layers > drawn)


def test_equal_learning_rates_not_among_others(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in (1, 2):
        writer.write(step, {"train/loss": 1.0, "lr/AdamW/pg1": 0.1 / step, "lr/AdamW/pg2": 0.1 / step, "own/x": 1.0})
    writer.close()
    (others,) = (section for section in sections(read([tmp_path])) if section.id == "others")
    assert [figure.layout.title.text for figure in others.figures.values()] == ["own/x"]


def test_norms_of_two_layers_are_map(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in (1, 2):
        writer.write(step, {"train/loss": 1.0, "grad_norm/total": 1.0, "grad_norm/0": 0.6, "grad_norm/2": 0.8})
    writer.close()
    made = {section.id: section for section in sections(read([tmp_path]))}
    assert list(made["layers"].figures["grad_norm"].data[0].y) == ["0", "2"]
    assert "others" not in made


def test_chart_of_one_label_names_it(tmp_path: Path) -> None:
    folders = [trained(tmp_path / name) for name in "ab"]
    for logdirs in (folders[:1], folders):
        assert figures(*logdirs)["scores"].layout.title.text == "Score: eval accuracy"
        assert figures(*logdirs)["memory"].layout.title.text == "Memory: process"
        assert figures(*logdirs)["learning_rate"].layout.title.text == "Learning rate"
