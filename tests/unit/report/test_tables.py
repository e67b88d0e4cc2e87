"""Tests the tables of a report: the order of results, and the table of many runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.report.loaded_runs import read
from tbx_callbacks.report.tables import findings, main_metric, results, run_table
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.report_runs import trained

RESULTS = {"eval/rouge1": 0.2, "eval/accuracy": 0.5, "eval/f1": 0.4, "eval/loss": 1.0, "eval/perplexity": 3.0}


def with_results(folder: Path, best: str | None = None, values: dict[str, float] = RESULTS) -> Path:
    writer = TensorBoardWriter(folder)
    if best:
        writer.write(0, {"args": Text(f"```json\n{json.dumps({'metric_for_best_model': best})}\n```")})
    for step in (1, 2):
        writer.write(step, {"train/loss": 2.0 / step, **values})
    writer.close()
    return folder


@pytest.mark.parametrize(
    ("best", "first"), [(None, "accuracy"), ("eval_f1", "f1"), ("f1", "f1"), ("rouge1", "rouge1"), ("gone", "accuracy")]
)
def test_results_loss_and_main_metric_first(best: str | None, first: str, tmp_path: Path) -> None:
    names = [row.name.partition(",")[0] for row in results(read([with_results(tmp_path, best)]))]
    assert names[:3] == ["train loss", "eval/loss", f"eval/{first}"]
    assert sorted(names[1:-2]) == sorted(RESULTS)
    assert names[-2:] == ["steps", "duration"]


def test_main_metric_without_known_metric_none(tmp_path: Path) -> None:
    (loaded_run,) = read([with_results(tmp_path, values={"eval/loss": 1.0, "eval/thing": 2.0})])
    assert main_metric([loaded_run], ["eval/loss", "eval/thing"]) is None


def test_run_table_has_findings_results_and_settings(tmp_path: Path) -> None:
    for number in range(9):
        trained(tmp_path / f"run{number}", steps=20, lr=0.1 * number, extra={f"eval/m{n}": 1.0 for n in range(9)})
    columns, left_out = run_table(read([tmp_path]))
    names = [column.name.partition(",")[0] for column in columns]
    assert names[:4] == ["findings", "train loss", "eval/loss", "eval/accuracy"]
    assert names[-3:] == ["steps", "duration", "lr"]
    assert (len(names), left_out) == (10, 6)
    assert {len(column.cells) for column in columns} == {9}


def test_findings_evidence_names_tag_once(tmp_path: Path) -> None:
    tag = "wiring/gradients_not_cleared"
    (loaded,) = read([trained(tmp_path / "run", extra={tag: 1.0})])
    (one,) = (one for one in findings([loaded])[0] if one.finding.id == "gradients_not_cleared")
    assert one.evidence == f"{tag} 1"
