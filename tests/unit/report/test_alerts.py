"""Tests the report's markers of live rules' alerts at their step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.report import figures, plot_losses, write_report
from tbx_callbacks.report.colours import SEVERITY
from tbx_callbacks.rules import Finding
from tbx_callbacks.rules.finding_text import markdown
from tbx_callbacks.runs.reader import read_run
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.report_runs import HOSTILE, trained

MEANS, ADVICE = "It jumped from 0.1 to 5.", "Look at the batch."
FINDING = Finding("loss_spike", "warning", ("train/loss",), (40,), MEANS, ADVICE, "PaLM", {"loss": 5.0})
SHOWN = {"loss": "train/loss", "gradient_norm": "grad_norm/total", "throughput": "perf/samples_per_s"}


def with_alerts(folder: Path, **texts: tuple[int, Text]) -> Path:
    trained(folder)
    writer = TensorBoardWriter(folder)
    for tag, (step, text) in texts.items():
        writer.write(step, {f"alerts/{tag}": text})
    writer.close()
    return folder


def alerts(figure: Any) -> Any:
    (markers,) = (trace for trace in figure.data if (trace.meta or {}).get("role") == "alerts")
    return markers


def test_alert_markers_at_step_in_line_charts(tmp_path: Path) -> None:
    run = with_alerts(tmp_path / "run", loss_spike=(44, Text(markdown(FINDING, 44))))
    made = figures(run)
    for name, tag in SHOWN.items():
        markers = alerts(made[name])
        series = read_run(run).scalars[tag]
        assert markers.x == (44,)
        assert markers.y[0] == pytest.approx(series.values[list(series.steps).index(44)])
        assert markers.marker.color == (SEVERITY["warning"],)
    assert markers.hovertext[0].split("<br>") == [
        "alert, step 44: warning: loss_spike, found at step 44",
        "It jumped from 0.1 to 5.",
        "Try: Look at the batch.",
        "Evidence: train/loss; steps 40",
    ]


def test_alert_markers_without_alerts_none(tmp_path: Path) -> None:
    figure = plot_losses(trained(tmp_path / "run"))
    assert not [trace for trace in figure.data if (trace.meta or {}).get("role") == "alerts"]


def test_alert_markers_of_several_runs_own_lines(tmp_path: Path) -> None:
    with_alerts(tmp_path / "a", loss_spike=(44, Text(markdown(FINDING, 44))))
    texts = {"loss_spike": (60, Text(markdown(FINDING, 60))), "divergence": (80, Text(markdown(FINDING, 80)))}
    with_alerts(tmp_path / "b", **texts)
    found = [trace for trace in plot_losses(tmp_path).data if (trace.meta or {}).get("role") == "alerts"]
    assert [(trace.meta["run"], trace.x) for trace in found] == [(0, (44,)), (1, (60, 80))]


def test_alert_markers_hostile_text_escaped(tmp_path: Path) -> None:
    run = with_alerts(tmp_path / "run", mine=(50, Text(HOSTILE + "\n\n" + "word " * 400)))
    (printed,) = alerts(plot_losses(run)).hovertext
    assert "<script" not in printed
    assert "&lt;script&gt;" in printed
    assert printed.endswith("...")
    page = write_report([run], tmp_path / "report.html", png=tmp_path / "png").read_text()
    assert HOSTILE not in page
    assert (tmp_path / "png" / "loss.png").is_file()


def test_alert_markers_between_points_on_line(tmp_path: Path) -> None:
    run = with_alerts(tmp_path / "run", loss_spike=(45, Text(markdown(FINDING, 45))))
    series = read_run(run).scalars["eval/accuracy"]
    (height,) = alerts(figures(run)["scores"]).y
    assert height == pytest.approx(np.interp(45, series.steps, series.values))


def test_alert_markers_without_line_on_loss_axis(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in range(1, 6):
        values = {"train/loss": np.nan if step > 2 else 0.5, "grad_norm/total": 1.0}
        writer.write(step, values if step > 1 else {"train/loss": 0.5})
    for step in (1, 3):
        writer.write(step, {f"alerts/found_{step}": Text(markdown(FINDING, step))})
    writer.close()
    made = figures(tmp_path)
    on_line, off_line = (trace for trace in made["loss"].data if trace.meta.get("role") == "alerts")
    assert (on_line.x, on_line.y, on_line.yaxis) == ((1,), (0.5,), None)
    assert (off_line.x, off_line.y, off_line.yaxis) == ((3,), (0.0,), "y2")
    assert made["loss"].layout.yaxis2.range == (0, 1)
    assert alerts(made["gradient_norm"]).x == (3,)
    write_report([tmp_path], tmp_path / "report.html", png=tmp_path / "png")
