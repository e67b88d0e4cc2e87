"""Tests the command that shows the batch behind a bad step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks.runs.bad_batches import BadBatch, BadRow, MicroBatch, file_of, write
from tests.helpers.commands import run as command_of

ROWS = [
    BadRow("1", 0.25, 0, 0, "a good film"),
    BadRow("2", math.nan, 1, 0, "[red]a[/red] \x1b[31mbad\u202e film"),
    BadRow("3", 9.5, 1, 0),
]


def command(*arguments: object) -> Any:
    return command_of(*map(str, arguments))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step, rank in ((7, 0), (7, 1), (12, 0)):
        rows = ROWS if rank == 0 else []
        batch = BadBatch(step, rank, [f"the loss of micro-batch 2 is nan {step}"], [MicroBatch(2, math.nan, rows)])
        write(file_of(str(tmp_path), step, rank), batch)
    return tmp_path


def test_batch_shows_worst_rows_first(run: Path) -> None:
    done = command("batch", run, 7)
    assert done.returncode == 0
    assert "step 7, rank 0: the loss of micro-batch 2 is nan 7" in done.stdout
    assert "step 7, rank 1" in done.stdout
    assert "micro-batch 2: loss nan, 3 rows" in done.stdout
    lines = done.stdout.splitlines()
    rows = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0].isdigit()]
    assert rows == ["2", "3", "1"]
    assert "[red]a[/red] ?[31mbad? film" in done.stdout


def test_batch_limited_rows_counted(run: Path) -> None:
    done = command("batch", run, 7, "--rows", 1)
    assert "and 2 more rows: --rows 3" in done.stdout
    assert "9.5" not in done.stdout


def test_batch_without_step_lists_steps(run: Path) -> None:
    done = command("batch", run)
    assert done.returncode == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:3]] == [["7", "0,"], ["12", "0"]]
    assert f"show one: tbx-callbacks batch {run} 7" in done.stdout


def test_batch_wrong_step_lists_steps(run: Path) -> None:
    done = command("batch", run, 8)
    assert done.returncode == 2
    assert "STEP must be a bad step of the run, got 8; there are 7, 12" in done.stderr


def test_batch_json(run: Path) -> None:
    done = command("batch", run, 12, "--json")
    (batch,) = json.loads(done.stdout)["batches"]
    assert batch["step"] == 12
    assert [row["loss"] for row in batch["micro_batches"][0]["rows"]] == [0.25, "nan", 9.5]
    assert len(json.loads(command("batch", run, "--json").stdout)["batches"]) == 3


def test_batch_run_without_batches_refused(tmp_path: Path) -> None:
    for place, message in ((tmp_path, "has none; add the metric bad_batches"), (tmp_path / "no", "must be the folder")):
        done = command("batch", place, 3)
        assert done.returncode == 2
        assert message in " ".join(done.stderr.split())


def test_batch_damaged_files_named(run: Path) -> None:
    Path(file_of(str(run), 7, 0)).write_text("{")
    done = command("batch", run, 7)
    assert done.returncode == 0
    assert "step00000007.rank0.json is left out" in done.stderr
    assert "step 7, rank 1" in done.stdout
    Path(file_of(str(run), 12, 0)).write_text("{")
    done = command("batch", run, 12)
    assert done.returncode == 2
    assert "must hold batches, but none can be read" in done.stderr
