"""Tests the data map and the lists of rows in the report."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tbx_callbacks.report import figures, write_report
from tbx_callbacks.runs.examples import file_of
from tbx_callbacks.runs.json_lines import append, line_of
from tests.helpers.report_runs import HOSTILE, trained


def with_rows(folder: Path, rows: int = 60, *, epochs: int = 3) -> Path:
    """A run whose first rows have a wrong label."""
    trained(folder, extra={"examples/loss/web": 0.5, "examples/loss/books": 0.4})
    made = np.random.default_rng(0)
    for epoch in range(epochs):
        for start in range(0, rows, 20):
            own = range(start, min(rows, start + 20))
            shares = [0.1 if n < 5 else made.uniform(0.6, 0.99) for n in own]
            append(
                file_of(str(folder), 0),
                line_of(
                    epoch * 10 + start,
                    rows=[f"row {n}" for n in own],
                    losses=[-math.log(share) for share in shares],
                    labels=[n % 2 for n in own],
                    predicted=[1 - n % 2 if n < 5 else n % 2 for n in own],
                    texts={f"row {n}": f"a film {HOSTILE}" for n in own} if not epoch else {},
                ),
            )
    return folder


def test_data_map_shows_every_row(tmp_path: Path) -> None:
    drawn = figures(with_rows(tmp_path / "run"))
    traces = {trace.name: trace for trace in drawn["data_map_0"].data}
    assert list(traces) == ["right every time (55)", "right sometimes (0)", "never right (5)"]
    assert sum(len(trace.x) for trace in traces.values()) == 60
    assert np.allclose(traces["never right (5)"].y, 0.1)
    assert np.allclose(traces["never right (5)"].x, 0.0, atol=1e-6)
    assert "60 training rows, each seen 3 times" in drawn["data_map_0"].layout.meta["about"]
    assert {trace.name for trace in drawn["groups"].data} == {"web", "books"}


def test_data_map_of_many_rows_thinned(tmp_path: Path) -> None:
    drawn = figures(with_rows(tmp_path / "run", 9000, epochs=1))["data_map_0"]
    assert 3900 < sum(len(trace.x) for trace in drawn.data) <= 4001
    assert drawn.data[2].name == "never right (5)"
    assert len(drawn.data[2].x) >= 1
    assert "9,000 training rows, each seen once" in drawn.layout.meta["about"]


def test_report_lists_hardest_rows_and_wrong_labels(tmp_path: Path) -> None:
    page = write_report([with_rows(tmp_path / "run")], tmp_path / "page.html").read_text(encoding="utf-8")
    own = page.partition("<main>")[2].partition('<script type="application/json"')[0]
    assert own.count("<summary>Hardest rows</summary>") == own.count("<summary>Labels that may be wrong</summary>") == 1
    assert "5 rows with a low probability of their label" in own
    hardest = own.partition("Hardest rows")[2].partition("</details>")[0]
    assert hardest.count('<th scope="row">') == 25
    assert [f"row {n}" in hardest.partition('<th scope="row">')[2][:900] for n in range(5)].count(True) >= 1
    assert "a film &lt;script&gt;" in hardest
    assert "<script>window.hacked" not in own


def test_report_of_two_runs_names_them(tmp_path: Path) -> None:
    folders = [with_rows(tmp_path / name) for name in ("a", "b")]
    drawn = figures(*folders)
    assert [drawn[f"data_map_{n}"].layout.title.text for n in (0, 1)] == ["Data map of a", "Data map of b"]
    page = write_report(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Hardest rows of a" in page
    assert "Hardest rows of b" in page


def test_report_without_rows_has_no_section(tmp_path: Path) -> None:
    page = write_report([trained(tmp_path / "run")], tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'id="examples"' not in page


def test_report_names_classes_of_model(tmp_path: Path) -> None:
    from tbx_callbacks.metrics.host_values import Text
    from tbx_callbacks.writers.tensorboard import TensorBoardWriter

    writer = TensorBoardWriter(with_rows(tmp_path / "run"))
    writer.write(1, {"model_config": Text('```json\n{"id2label": {"0": "bad", "1": "good"}}\n```')})
    writer.close()
    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<td>bad</td><td>good</td>" in page


def test_report_lists_bad_steps_worst_rows_first(tmp_path: Path) -> None:
    from tbx_callbacks.runs import bad_batches
    from tbx_callbacks.runs.bad_batches import BadBatch, BadRow, MicroBatch

    folder = trained(tmp_path / "run")
    rows = [BadRow("a", 0.5), BadRow(HOSTILE, 2.0), BadRow("c", math.nan), BadRow("d")]
    for step in range(30):
        batch = BadBatch(step, 1, [f"the loss is nan {step}"], [MicroBatch(1, math.nan, rows)])
        bad_batches.write(bad_batches.file_of(str(folder), step, 1), batch)
    page = write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
    own = page.partition("Batches of bad steps</summary>")[2].partition("</details>")[0]
    assert own.count('<th scope="row">') == 25
    assert "The first 25 of 30 are listed." in own
    assert '<td class="text">the loss is nan 7</td>' in own
    assert '<td class="text">c (nan), &lt;script&gt;' in own
