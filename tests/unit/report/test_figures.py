"""Tests the figures of a run for notebooks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.report import figures, plot_losses
from tbx_callbacks.runs.reader import UnreadableError, read_run
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.processes import python
from tests.helpers.report_runs import trained


def test_figures_of_run_complete(tmp_path: Path) -> None:
    made = figures(trained(tmp_path / "run"))
    expected = {"loss", "scores", "learning_rate", "gradient_norm", "clip", "grad_norm", "update_ratio", "weight_norm"}
    expected |= {"histogram_weights", "histogram_grads", "throughput", "step_time", "memory", "monitor_share"}
    assert expected <= set(made)
    (aux,) = (figure for figure in made.values() if figure.layout.title.text == "aux/temperature")
    assert aux.data[0].y[-1] == 1.0
    train, evaluated = made["loss"].data[:2]
    read = read_run(tmp_path / "run").scalars
    assert train.x.tolist() == read["train/loss"].steps.tolist()
    assert train.y == pytest.approx(read["train/loss"].values)
    assert evaluated.x.tolist() == [20, 40, 60, 80, 100, 120]
    assert [trace.name for trace in made["gradient_norm"].data] == ["before clipping", "after clipping"]
    assert len(made["learning_rate"].data) == 1  # both groups have the same


@pytest.mark.parametrize(
    ("rates", "mode"), [([0.01, 0.01], "tozero"), ([0.01, 0.02], "normal"), ([0.0, 0.0], "normal")]
)
def test_figures_constant_rate_away_from_zero(rates: list[float], mode: str, tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step, rate in enumerate(rates, 1):
        writer.write(step, {"lr/AdamW/pg0": rate, "train/loss": 1.0})
    writer.close()
    assert figures(tmp_path)["learning_rate"].layout.yaxis.rangemode == mode


def test_figures_layers_in_order_of_model(tmp_path: Path) -> None:
    grad_norm = figures(trained(tmp_path / "run"))["grad_norm"].data[0]
    assert list(grad_norm.y) == ["embeddings", "layer.0", "layer.1", "layer.2", "layer.3", "pooler", "classifier"]
    assert grad_norm.customdata[6, -1] == pytest.approx(100 * np.exp(-1), rel=1e-5)
    assert grad_norm.z[6, -1] == pytest.approx(2 - np.log10(np.e), rel=1e-5)


def test_figures_nan_and_zero_own_colours(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {f"grad_norm/a.{n}": 10.0**n * step for n in range(4)} | {"train/loss": 1.0})
    writer.write(4, {"grad_norm/a.1": float("nan"), "grad_norm/a.2": 0.0, "train/loss": 1.0})
    writer.close()
    values, bad, zero = figures(tmp_path)["grad_norm"].data
    assert np.isnan(values.z[1, 3])
    assert np.argwhere(bad.z == 1).tolist() == [[1, 3]]
    assert np.argwhere(zero.z == 1).tolist() == [[2, 3]]


def test_figures_findings_marked_at_first_step(tmp_path: Path) -> None:
    figure = plot_losses(trained(tmp_path / "run", steps=200, spike=120))
    (marks,) = (trace for trace in figure.data if (trace.meta or {}).get("role") == "findings")
    index = list(marks.x).index(120)
    assert marks.y[index] == 5.0
    assert "loss_spike" in marks.hovertext[index]


def test_figures_without_finite_values_say_so(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path / "nan")
    for step in range(1, 41):
        writer.write(step, {"train/loss": float("nan"), "nonfinite/losses": 1.0, "grad_norm/total": 1.0})
    writer.close()
    loss = figures(tmp_path / "nan")["loss"]
    assert [note.text for note in loss.layout.annotations] == ["all values are NaN or Inf"]
    assert (loss.layout.yaxis.range, loss.layout.yaxis.showticklabels) == ((0, 1), False)
    markers = [trace for trace in loss.data if trace.meta.get("role") == "findings"]
    assert {height for trace in markers for height in trace.y} == {0.0}
    assert not figures(tmp_path / "nan")["gradient_norm"].layout.annotations
    both = figures(trained(tmp_path / "fine"), tmp_path / "nan")["loss"]
    drawn = [value for trace in both.data if trace.meta.get("role") is None for value in trace.y]
    markers = [trace for trace in both.data if trace.meta.get("role") == "findings" and trace.meta["run"] == 1]
    assert {height for trace in markers for height in trace.y} == {np.nanmin(np.array(drawn, np.float64))}


def test_figures_of_several_runs_overlay(tmp_path: Path) -> None:
    trained(tmp_path / "one"), trained(tmp_path / "two", lr=1e-2)
    made = figures(tmp_path)
    assert [trace.name for trace in made["throughput"].data] == ["one", "two"]
    assert len({trace.line.color for trace in made["throughput"].data}) == 2
    assert [trace.name for trace in made["loss"].data[:2]] == ["one: train", "one: eval"]
    assert [trace.visible for trace in made["grad_norm"].data] == [True, False]
    same = figures(tmp_path / "one", tmp_path / "one")
    assert [trace.name for trace in same["throughput"].data] == ["one (1)", "one (2)"]


def test_figures_of_many_runs_told_apart(tmp_path: Path) -> None:
    for number in range(12):
        trained(tmp_path / f"run{number}", steps=120 if number == 0 else 8)
    made = figures(tmp_path)
    lines = [trace for trace in made["throughput"].data if trace.meta.get("role") is None]
    assert len({(line.line.color, line.marker.symbol) for line in lines}) == 12
    assert {line.line.dash for line in lines} == {"solid", "dash", "dot"}
    assert (lines[0].mode, lines[0].marker.maxdisplayed) == ("lines+markers", 8)
    losses = [trace for trace in made["loss"].data if trace.meta.get("label") == "train"]
    assert {line.line.dash for line in losses} == {"solid"}  # in this chart a dash tells train from eval
    assert {trace.mode for trace in made["loss"].data if trace.meta.get("role") == "findings"} <= {"markers"}


def test_figures_of_single_histogram_name_step(tmp_path: Path) -> None:
    made = figures(trained(tmp_path / "one", steps=20))["histogram_weights"]
    assert (made.layout.xaxis.tickvals, made.layout.xaxis.ticktext) == ((20,), ("20",))
    assert {trace.mode for trace in made.data if trace.type == "scatter"} == {"markers"}
    assert figures(trained(tmp_path / "two", steps=40))["histogram_weights"].layout.xaxis.tickvals is None


def test_figures_of_foreign_folder_or_none(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("my number", step, step)
            writer.add_histogram("<b>/h", np.arange(10.0), step)
    made = figures(tmp_path)
    assert [figure.layout.title.text for figure in made.values()] == ["&lt;b&gt;", "my number"]
    with pytest.raises(UnreadableError, match=r"a run must have a loss to plot, but those in .* have none"):
        plot_losses(tmp_path)
    with pytest.raises(ValueError, match="at least one folder of runs must be given, got none"):
        figures()


def test_figures_of_histograms_have_menu(tmp_path: Path) -> None:
    counts = HistogramCounts((1, 2), low=0.0, high=1.0, total=1.0, total_squares=1.0)
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {f"weights/layer.{n}": counts for n in range(120)} | {"train/loss": 1.0})
    writer.close()
    figure = figures(tmp_path)["histogram_weights"]
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == [f"layer.{n}" for n in range(100)]
    shown = menu.buttons[7].args[0]["visible"]
    assert [trace.meta["pick"]["layer"] for trace, is_shown in zip(figure.data, shown, strict=True) if is_shown] == [
        "layer.7",
        "layer.7",
    ]


def test_figures_without_plotly_prints_install_command(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["plotly"] = None
from tbx_callbacks.report import figures
try:
    figures({str(tmp_path)!r})
except ImportError as error:
    print(error)
"""
    done = python("-c", code, check=True)
    assert done.stdout == (
        "a report needs plotly and jinja2, which are not installed; run: pip install 'tbx-callbacks[report]'\n"
    )
