"""Tests reading JSON lines of other tools; those of this package's writer are tested with the writer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tbx_callbacks.runs.reader import UnreadableError, find_runs, read_run


def write(file: Path, *lines: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.parametrize("key", ["step", "global_step", "_step", "iteration", "current_steps", "trainer/global_step"])
def test_json_lines_names_of_steps(tmp_path: Path, key: str) -> None:
    file = write(tmp_path / "log.jsonl", {key: 1, "loss": 0.5}, {key: 2.0, "loss": 0.25})
    run = read_run(file)
    assert run.scalars["loss"].steps.tolist() == [1, 2]
    assert set(run.scalars) == {"loss"}


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([{"step": 1, "loss": 0.5}], ""),
        ([{"step": 1, "loss": 0.5, "status": "failed"}], "failed"),
        ([{"step": 1, "loss": 0.5}, {"step": 2, "_hparams_/session_end_info": {"status": "succeeded"}}], "succeeded"),
        ([{"step": 1, "loss": 0.5, "status": "odd"}, {"step": 2, "end": {"status": "odd"}}], ""),
        (
            [
                {"step": 1, "loss": 0.5, "_hparams_/session_end_info": {"status": "failed"}},
                {"step": 0, "_hparams_/session_start_info": {"hparams": {"lr": 0.1}}},
            ],
            "",
        ),
    ],
    ids=["open", "field", "object", "other words", "resumed"],
)
def test_json_lines_status_of_end_read(tmp_path: Path, lines: list[Any], status: str) -> None:
    assert read_run(write(tmp_path / "log.jsonl", *lines)).status == status


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"wall_time": 1764417600.5}, 1764417600.5),
        ({"_timestamp": 1764417600}, 1764417600.0),
        ({"timestamp": "2025-11-29T12:00:00+00:00"}, 1764417600.0),
        ({"time": "2025-11-29T12:00:00Z"}, 1764417600.0),
    ],
)
def test_json_lines_times_read(tmp_path: Path, fields: dict[str, Any], seconds: float) -> None:
    run = read_run(write(tmp_path / "log.jsonl", {"step": 1, "loss": 0.5, **fields}))
    assert run.scalars["loss"].wall_times.tolist() == [seconds]
    assert set(run.scalars) == {"loss"}


def test_json_lines_short_time_is_value(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "log.jsonl", {"step": 1, "loss": 0.5, "time": 0.3}))
    assert run.scalars["time"].values.tolist() == [0.3]
    assert math.isnan(run.scalars["loss"].wall_times[0])


def test_json_lines_nested_and_special_numbers(tmp_path: Path) -> None:
    lines = [
        '{"step": 1, "train": {"loss": NaN, "norms": {"total": 2}}, "flag": true}\n',
        {"step": 2, "train": {"loss": "-Infinity"}, "note": "text"},
        '{"step": 3, "tra',
    ]
    run = read_run(write(tmp_path / "metrics.jsonl", *lines))
    assert math.isnan(run.scalars["train/loss"].values[0])
    assert run.scalars["train/loss"].values[1] == -math.inf
    assert run.scalars["train/norms/total"].values.tolist() == [2.0]
    assert run.scalars["flag"].values.tolist() == [1.0]
    assert run.scalars["train/loss"].steps.tolist() == [1, 2]


def test_json_lines_global_step_before_step(tmp_path: Path) -> None:
    lines = [{"epoch": n // 3, "step": n % 3, "global_step": n, "loss": 1.0} for n in range(9)]
    run = read_run(write(tmp_path / "log.jsonl", *lines))
    assert run.scalars["loss"].steps.tolist() == list(range(9))
    lines = [{"_step": n, "train/global_step": 10 * n, "loss": 1.0} for n in range(9)]
    assert read_run(write(tmp_path / "wandb.jsonl", *lines)).scalars["loss"].steps.tolist() == list(range(0, 90, 10))


@pytest.mark.parametrize(("end", "steps"), [('{"step": 3, "loss": 1}', [1, 3]), ('{"step": 3, "loss": 1', [1])])
def test_json_lines_last_line_without_break(tmp_path: Path, end: str, steps: list[int]) -> None:
    run = read_run(write(tmp_path / "log.jsonl", {"step": 1, "loss": 0.5}, end))
    assert (run.scalars["loss"].steps.tolist(), run.left_out) == (steps, ())


def test_json_lines_restart_replaces_steps(tmp_path: Path) -> None:
    steps = [1, 2, 3, 2, 3]
    run = read_run(write(tmp_path / "log.jsonl", *({"step": step, "loss": n} for n, step in enumerate(steps))))
    assert run.scalars["loss"].steps.tolist() == [1, 2, 3]
    assert run.scalars["loss"].values.tolist() == [0, 3, 4]


def test_find_runs_data_files_no_runs(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"text": "a sentence", "label": 1}, {"text": "another", "label": 0})
    write(tmp_path / "steps.jsonl", {"step": "first"}, {"step": 3})
    with pytest.raises(UnreadableError, match="there are none"):
        find_runs(tmp_path)
    with pytest.raises(UnreadableError, match=r"must have a field step or epoch, but .* has only 'text', 'label'"):
        read_run(tmp_path / "train.jsonl")


def test_find_runs_several_logs_named_by_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", {"step": 1, "loss": 0.5})
    assert find_runs(tmp_path) == {name: str(tmp_path / f"{name}.jsonl") for name in ("a", "b")}
    with pytest.raises(UnreadableError, match=r"must hold one log, .* holds a, b; name the file"):
        read_run(tmp_path)


def test_json_lines_damaged_lines_named(tmp_path: Path) -> None:
    run = read_run(
        write(
            tmp_path / "log.jsonl", {"step": 1, "loss": 0.5}, "no json\n", [1], {"loss": 3}, {"step": 2, "loss": 0.25}
        )
    )
    assert run.scalars["loss"].steps.tolist() == [1, 2]
    assert run.left_out == (
        "a line and 1 more are left out: it is no JSON object",
        "a line is left out: it has no step",
    )


@pytest.mark.parametrize(
    "histogram",
    [
        {},
        {"edges": [0, 1], "counts": [1]},
        {"edges": [1, 0], "counts": [1], "min": 1, "max": 0},
        {"edges": "x", "counts": [1], "min": 0, "max": 1},
        {"edges": [0], "counts": [1, 2], "min": 0, "max": 1},
        {"edges": [0, 1], "counts": [-1], "min": 0, "max": 1},
        [1],
    ],
)
def test_json_lines_damaged_histogram_left_out(tmp_path: Path, histogram: object) -> None:
    run = read_run(write(tmp_path / "metrics.jsonl", {"step": 1, "loss": 0.5, "w": {"histogram": histogram}}))
    assert not run.histograms
    assert run.left_out[0].startswith("the value of 'w' at step 1 is left out")


def test_json_lines_without_steps_epochs_are_steps(tmp_path: Path) -> None:
    lines = ({"epoch": epoch, "loss": 1 / (1 + epoch), "val_loss": 0.5} for epoch in range(3))
    run = read_run(write(tmp_path / "log.jsonl", *lines))
    assert run.scalars["train/loss"].steps.tolist() == [0, 1, 2]
    assert set(run.scalars) == {"train/loss", "eval/loss"}
    assert "steps (epochs count as steps)" in run.lacks


def test_json_lines_with_steps_epochs_are_values(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "log.jsonl", {"epoch": 1, "loss": 0.5}, {"step": 9, "epoch": 2, "loss": 0.4}))
    assert run.scalars["loss"].steps.tolist() == [9]
    assert run.left_out == ("a line is left out: it has no step",)


def test_json_lines_several_of_epoch_named(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "log.jsonl", *({"epoch": 1, "train_loss": 1 / batch} for batch in (1, 2))))
    assert run.scalars["train_loss"].values.tolist() == [0.5]
    assert any("its epoch has another value after it" in words for words in run.left_out)


def test_json_lines_number_as_text_named(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "log.jsonl", {"step": 1, "loss": "0.5", "lr": 0.1, "note": "fine"}))
    assert set(run.scalars) == {"lr"}
    assert any("loss" in words and "it holds a text where a number must be" in words for words in run.left_out)
    assert len(run.left_out) == 1
