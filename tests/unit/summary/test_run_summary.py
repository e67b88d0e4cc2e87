"""Tests the summary of a run."""

from __future__ import annotations

import math
from pathlib import Path

from tbx_callbacks.report.loaded_runs import read
from tbx_callbacks.summary import LIMIT, summarize
from tests.helpers.report_runs import HOSTILE, trained


def test_summary_findings_come_first(tmp_path: Path) -> None:
    summary = summarize(read([trained(tmp_path / "run", spike=60)])[0])
    text = summary.text()
    assert len(text) <= LIMIT
    lines = text.splitlines()
    assert lines[0].startswith("run run: ")
    assert lines[1].startswith("warning TBX-")
    assert lines[2].startswith("  try: ")
    assert any(line.startswith("eval/accuracy: 0.65 -> 0.9 at step 120, best 0.9 at step 120") for line in lines)
    assert any(line.startswith("settings: lr=0.001, batch=8") for line in lines)
    assert "grad_norm (8)" in lines[-1]


def test_summary_curves_equal_series(tmp_path: Path) -> None:
    loaded = read([trained(tmp_path / "run", extra={"eval/loss": math.nan})])[0]
    summary = summarize(loaded)
    curves = {curve.tag: curve for curve in summary.curves}
    series = loaded.run.scalars["train/loss"]
    loss = curves["train/loss"]
    assert (loss.first, loss.last, loss.points) == (series.values[0], series.values[-1], len(series))
    assert loss.best == series.values.min()
    assert loss.best_step == series.steps[series.values.argmin()]
    evaluated = curves["eval/loss"]
    assert (evaluated.nonfinite, evaluated.best) == (evaluated.points, None)
    assert "60 of 60 values are NaN or Inf" in summary.text()
    assert curves["grad_norm/total"].best is None


def test_summary_of_hostile_run_fits(tmp_path: Path) -> None:
    extra = {f"{HOSTILE}{n}/{'x' * 300}": 1.0 for n in range(200)} | {f"eval/{'y' * 200}{n}": 1.0 for n in range(200)}
    text = summarize(read([trained(tmp_path / "run", steps=20, extra=extra)])[0]).text()
    assert len(text) <= LIMIT
    assert text.startswith("run run: ")


def test_summary_of_other_log_names_it(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train_loss\n" + "".join(f"{n},{1 / n}\n" for n in range(1, 50)))
    summary = summarize(read([tmp_path])[0])
    assert summary.seconds is None
    assert "steps: 49; read from metrics.csv, which holds no wall times" in summary.text()
