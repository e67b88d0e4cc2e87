"""Tests runs written against samples, tokens and epochs, read from disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks import TbxLoop
from tbx_callbacks.runs.reader import find_runs
from tbx_callbacks.writers import TensorBoardWriter
from tbx_callbacks.writers.fan_out import FanOutWriter
from tests.helpers.axes import AXES_SET as SET
from tests.helpers.axes import along
from tests.helpers.runs import Run, files


def loop_over(folder: Path, sizes: Mapping[int, int | None], *, start: int = 0, **options: Any) -> None:
    """Trains on batches of given sizes by step, and evaluates after steps 3 and 4."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=folder, log_every=2, start_step=start, **options) as loop:
        for step, size in sizes.items():
            loss = model(torch.randn(size or 2, 4)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step(loss=loss, samples=size, tokens=None if size is None else 3 * size)
            if step in (3, 4):
                loop.evaluate(accuracy=0.5)


def test_axes_of_loop_written_at_counted_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop_over(tmp_path / "run", {1: 6, 2: 6, 3: 5, 4: 7, 5: 6, 6: 2})
    whole = Run(tmp_path / "run")
    assert whole.steps("train/loss") == [2, 4, 6]
    assert not [tag for tag in whole.scalars if tag.startswith("axis")]
    for axis, factor in (("samples", 1), ("tokens", 3)):
        read = along(tmp_path / "run", axis)
        assert read.scalars["train/loss"] == [
            (position * factor, whole.at("train/loss")[step]) for step, position in ((2, 12), (4, 24), (6, 32))
        ]
        assert read.steps("weight_norm/total") == [12 * factor, 24 * factor, 32 * factor]
        # Step 3 has no count: its position follows from the steps before.
        assert read.steps("eval/accuracy") == [18 * factor, 24 * factor]
        assert not read.histograms
        assert read.at("axis/step") == {12 * factor: 2, 18 * factor: 3, 24 * factor: 4, 32 * factor: 6}
    assert not files(tmp_path / "run" / "by_epochs")  # a loop has no epochs
    assert caplog.text.count("axis epochs is not written: it needs the trainer's epoch") == 1


def test_axes_of_resumed_loop_continue(tmp_path: Path) -> None:
    loop_over(tmp_path / "run", {1: 6, 2: 6, 3: 6, 4: 6, 5: 6, 6: 6})
    loop_over(tmp_path / "run", {5: 4, 6: 4, 7: 4, 8: 4}, start=4)
    loop_over(tmp_path / "run", {8: 1, 9: 1, 10: 1}, start=7)  # between two points
    assert Run(tmp_path / "run").steps("train/loss") == [2, 4, 6, 8, 10]
    assert along(tmp_path / "run", "samples").steps("train/loss") == [12, 24, 32, 37, 39]
    assert along(tmp_path / "run", "tokens").steps("weight_norm/total") == [36, 72, 96, 111, 117]


def test_axes_unknown_samples_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop_over(tmp_path / "run", {1: None, 2: None})  # the loop passes no number of samples
    assert not files(tmp_path / "run" / "by_samples")
    assert "axis samples is not written: it needs the samples of each batch" in caplog.text
    loop_over(tmp_path / "run", {3: 5, 4: 5}, start=2)
    assert not files(tmp_path / "run" / "by_samples")
    assert "axis samples is not written: its position at step 2 cannot be restored" in caplog.text
    assert Run(tmp_path / "run").steps("train/loss") == [2, 4]


def test_axes_folders_are_no_runs(tmp_path: Path) -> None:
    loop_over(tmp_path / "a" / "run", {1: 6, 2: 6})
    assert list(find_runs(tmp_path)) == ["a/run"]
    assert list(find_runs(tmp_path / "a" / "run")) == ["."]
    assert list(find_runs(tmp_path / "a" / "run" / "by_samples")) == ["."]  # the caller asks for this folder


def test_axes_points_never_go_back(tmp_path: Path) -> None:
    writer = FanOutWriter(TensorBoardWriter(tmp_path), axes=["samples"])
    writer.write(10, {"axis:samples": 1000.0, "x": 1.0})
    writer.write(19, {"x": 2.0})  # leads to 1900
    writer.write(20, {"axis:samples": 50.0, "x": 3.0})
    writer.write(30, {"axis:samples": 1000.0, "x": 4.0})
    writer.close()
    assert along(tmp_path, "samples").scalars["x"] == [(1000, 1.0), (1900, 2.0), (1900, 3.0), (2050, 4.0)]
    assert Run(tmp_path).steps("x") == [10, 19, 20, 30]


def test_axes_unwritable_folder_training_continues(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "by_samples").write_text("a file")
    with caplog.at_level(logging.WARNING):
        loop_over(tmp_path / "run", {1: 6, 2: 6, 3: 6, 4: 6})
    assert Run(tmp_path / "run").steps("train/loss") == [2, 4]
    assert caplog.text.count("there is a file where the folder should be") == 1
    assert along(tmp_path / "run", "tokens").steps("train/loss") == [36, 72]


def test_axes_count_below_estimate_written(tmp_path: Path) -> None:
    writer = FanOutWriter(TensorBoardWriter(tmp_path / "run"), axes=["samples"])
    writer.write(10, {"train/loss": 1.0, "axis:samples": 80.0})
    writer.write(15, {"eval/loss": 0.9})  # estimated at 120
    writer.write(20, {"train/loss": 0.8, "axis:samples": 20.0})  # at 100
    writer.write(30, {"train/loss": 0.7, "axis:samples": 80.0})
    writer.close()
    assert along(tmp_path / "run", "samples").steps("train/loss") == [80, 120, 180]


def test_axes_resume_after_repeated_step_extrapolated(tmp_path: Path) -> None:
    writer = FanOutWriter(TensorBoardWriter(tmp_path), axes=["samples"])
    for step in (10, 20):
        writer.write(step, {"train/loss": 1.0, "axis:samples": 80.0})
        writer.write(step, {"eval/loss": 1.0})
    writer.close()
    writer = FanOutWriter(TensorBoardWriter(tmp_path), axes=["samples"])
    writer.purge(26)  # the checkpoint is of step 25
    writer.write(30, {"train/loss": 1.0, "axis:samples": 40.0})
    writer.close()
    assert along(tmp_path, "samples").steps("train/loss") == [80, 160, 240]


def test_axes_unwritable_folder_of_resumed_run_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "by_samples").write_text("a file")
    writer = FanOutWriter(TensorBoardWriter(tmp_path), axes=["samples", "tokens"])
    writer.purge(1)
    writer.write(1, {"a": 1.0, "axis:samples": 2.0, "axis:tokens": 4.0})
    writer.close()
    assert along(tmp_path, "tokens").steps("a") == [4]
    assert caplog.text.count("there is a file where the folder should be") == 1
