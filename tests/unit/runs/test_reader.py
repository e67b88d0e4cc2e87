"""Tests which log of a folder is its run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tbx_callbacks.runs.reader import find_runs, read_run
from tbx_callbacks.writers.tensorboard import TensorBoardWriter


def events(folder: Path) -> None:
    writer = TensorBoardWriter(folder)
    writer.write(1, {"train/loss": 1.0})
    writer.close()


def state(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 2, "loss": 2.0}]}))


def lines(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"step": 3, "train/loss": 3.0}\n')


def table(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text("step,train/loss\n4,4.0\n")


def test_read_run_most_complete_log_wins(tmp_path: Path) -> None:
    lines(tmp_path / "trainer_log.jsonl")
    assert read_run(tmp_path).last_step == 3
    state(tmp_path)
    assert read_run(tmp_path).last_step == 2
    table(tmp_path)
    assert read_run(tmp_path).last_step == 4
    lines(tmp_path / "metrics.jsonl")
    assert read_run(tmp_path).last_step == 3
    events(tmp_path)
    assert read_run(tmp_path).last_step == 1
    assert list(find_runs(tmp_path)) == ["."]


def test_find_runs_history_of_logged_training_left_out(tmp_path: Path) -> None:
    state(tmp_path / "out" / "checkpoint-2")
    events(tmp_path / "out" / "runs" / "today")
    state(tmp_path / "other")
    table(tmp_path / "lightning_logs" / "version_0")
    found = find_runs(tmp_path)
    assert list(found) == ["lightning_logs/version_0", "other", "out/runs/today"]
    assert [read_run(path).last_step for path in found.values()] == [4, 2, 1]


def test_find_runs_trainings_below_training_found(tmp_path: Path) -> None:
    state(tmp_path)
    state(tmp_path / "checkpoint-2")
    state(tmp_path / "second" / "checkpoint-2")
    assert list(find_runs(tmp_path)) == [".", "second"]


def test_find_runs_few_numbers_replace_no_history(tmp_path: Path) -> None:
    state(tmp_path / "out")
    lines(tmp_path / "out" / "eval" / "results.jsonl")
    assert list(find_runs(tmp_path)) == ["out", "out/eval"]


@pytest.mark.parametrize("write", [events, table])
def test_find_runs_checkpoints_of_logged_training_no_runs(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "out")
    state(tmp_path / "out" / "checkpoint-200")
    assert list(find_runs(tmp_path)) == ["out"]


def test_find_runs_prefix_of_name_is_other_training(tmp_path: Path) -> None:
    state(tmp_path / "out")
    events(tmp_path / "out_2")
    assert list(find_runs(tmp_path)) == ["out", "out_2"]


def test_find_runs_numbers_sorted_by_value(tmp_path: Path) -> None:
    for name in ("run10", "run2", "run1", "run2/fold11", "run2/fold3"):
        events(tmp_path / name)
    assert list(find_runs(tmp_path)) == ["run1", "run2", "run2/fold3", "run2/fold11", "run10"]
