"""Tests reading the log history of the Hugging Face Trainer."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks.runs.reader import UnreadableError, find_runs, read_run


def state(file: Path, history: object, **fields: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"log_history": history, **fields}))
    return file


def losses(*steps: int) -> list[dict[str, float]]:
    return [{"loss": 1 / step, "epoch": step / 10, "step": step} for step in steps]


def test_trainer_state_history_becomes_tags(tmp_path: Path) -> None:
    history = [
        {"loss": 0.9, "grad_norm": math.nan, "learning_rate": 1e-4, "epoch": 0.5, "step": 10},
        {"eval_loss": 0.8, "eval_accuracy": 0.5, "eval_runtime": 1.5, "epoch": 0.5, "step": 10},
        {"loss": 0.7, "grad_norm": 2.0, "learning_rate": 5e-5, "epoch": 1.0, "step": 20},
        {"train_runtime": 3.0, "train_loss": 0.8, "epoch": 1.0, "step": 20},
    ]
    state(tmp_path / "trainer_state.json", history, max_steps=20, best_metric=0.5, is_world_process_zero=True)
    run = read_run(tmp_path)
    assert run.scalars["train/loss"].steps.tolist() == [10, 20]
    assert run.scalars["train/loss"].values.tolist() == [0.9, 0.7]
    assert math.isnan(run.scalars["train/grad_norm"].values[0])
    assert run.scalars["eval/accuracy"].values.tolist() == [0.5]
    assert run.scalars["train/train_loss"].values.tolist() == [0.8]
    assert "train/eval_loss" not in run.scalars
    assert dict(run.hparams) == {"max_steps": 20.0}  # the best metric is no setting
    assert run.source == "trainer_state.json"
    assert "wall times" in run.lacks


def test_trainer_state_latest_checkpoint_read(tmp_path: Path) -> None:
    state(tmp_path / "checkpoint-5" / "trainer_state.json", losses(5))
    state(tmp_path / "checkpoint-15" / "trainer_state.json", losses(5, 10, 15))
    state(tmp_path / "checkpoint-10" / "trainer_state.json", losses(5, 10))
    assert find_runs(tmp_path) == {".": str(tmp_path)}
    run = read_run(tmp_path)
    assert (run.last_step, run.source) == (15, "checkpoint-15/trainer_state.json")


def test_trainer_state_of_earlier_training_left_out(tmp_path: Path) -> None:
    old = [{"loss": 0.1, "step": step} for step in (5, 10, 15, 20)]
    new = [{"loss": 0.7, "step": step} for step in (5, 10)]
    os.utime(state(tmp_path / "checkpoint-20" / "trainer_state.json", old), (1e9, 1e9))
    state(tmp_path / "checkpoint-5" / "trainer_state.json", new[:1])
    state(tmp_path / "checkpoint-10" / "trainer_state.json", new)
    run = read_run(tmp_path)
    assert run.scalars["train/loss"].values.tolist() == [0.7, 0.7]
    assert run.left_out == ("1 checkpoints of an earlier training in the same folder (left out)",)


def test_trainer_state_checkpoint_given_read_alone(tmp_path: Path) -> None:
    state(tmp_path / "checkpoint-5" / "trainer_state.json", losses(5))
    state(tmp_path / "checkpoint-10" / "trainer_state.json", losses(5, 10))
    assert find_runs(tmp_path / "checkpoint-5") == {".": str(tmp_path / "checkpoint-5")}
    assert read_run(tmp_path / "checkpoint-5").last_step == 5
    assert read_run(tmp_path / "checkpoint-10" / "trainer_state.json").last_step == 10


def test_trainer_state_damaged_checkpoint_left_out(tmp_path: Path) -> None:
    state(tmp_path / "checkpoint-5" / "trainer_state.json", losses(5))
    broken = tmp_path / "checkpoint-10" / "trainer_state.json"
    broken.parent.mkdir()
    broken.write_text('{"log_history": [{"loss"')
    run = read_run(tmp_path)
    assert run.last_step == 5
    assert "checkpoint-10/trainer_state.json" in run.left_out[0]


def test_trainer_state_list_of_entries_read(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    file.write_text(json.dumps(losses(1, 2, 3)))
    assert read_run(file).scalars["train/loss"].steps.tolist() == [1, 2, 3]
    assert find_runs(file) == {".": str(file)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "it is no log with steps"),
        ("[1, 2]", "it is no log with steps"),
        ("{", "must be a JSON file that can be read"),
        ('{"log_history": []}', "must hold a log_history with steps"),
    ],
)
def test_trainer_state_without_history_error_named(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "trainer_state.json"
    file.write_text(content)
    with pytest.raises(UnreadableError, match=words):
        read_run(file)


def test_trainer_state_entries_without_step_named(tmp_path: Path) -> None:
    state(tmp_path / "trainer_state.json", [*losses(1), {"loss": 3.0}, {"loss": 2.0, "step": "soon"}])
    run = read_run(tmp_path)
    assert run.scalars["train/loss"].values.tolist() == [1.0]
    assert run.left_out == ("an entry of log_history and 1 more are left out: it has no step",)


def test_trainer_state_texts_named(tmp_path: Path) -> None:
    state(tmp_path / "trainer_state.json", [{"loss": "0.5", "learning_rate": 0.1, "step": step} for step in (1, 2)])
    assert read_run(tmp_path).left_out == ("loss and 1 more are left out: it holds a text where a number must be",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"log_history": [{"loss"', "it is cut off, as when a training ends while it saves; delete checkpoint-10"),
        ('{"log_history": [{"loss": tr', "it is cut off, as when a training ends while it saves; delete checkpoint-10"),
        ("", "it is empty, as when a training ends while it saves; delete checkpoint-10"),
        ('{"log_history": []]}', "line 1 is no JSON"),
    ],
)
def test_trainer_state_damaged_file_remedy_named(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "checkpoint-10" / "trainer_state.json"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(UnreadableError) as raised:
        read_run(tmp_path)
    text = f"a run must have a trainer_state.json that can be read, got checkpoint-10/trainer_state.json: {words}"
    assert str(raised.value) == text
