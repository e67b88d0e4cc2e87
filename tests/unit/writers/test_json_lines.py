"""Tests the writer of JSON lines: reading it back gives the run that event files give."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.host_values import FinalValue, HParams, HParamsEnd, Layout, Text
from tbx_callbacks.runs.folders import unused
from tbx_callbacks.runs.reader import read_run
from tbx_callbacks.runs.series import Run
from tbx_callbacks.writers.json_lines import JsonLinesWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

WRITERS: list[Any] = [TensorBoardWriter, JsonLinesWriter]


def histogram(seed: int) -> HistogramCounts:
    numbers = torch.randn(500, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    counts = np.histogram(numbers.numpy(), bins=16)[0].tolist()
    low, high = float(numbers.min()), float(numbers.max())
    return HistogramCounts(tuple(counts), low, high, float(numbers.sum()), float((numbers**2).sum()))


def values_of(step: int) -> dict[str, FinalValue]:
    return {
        "train/loss": 1 / step,
        "odd/nan": math.nan,
        "odd/inf": math.inf if step % 2 else -math.inf,
        "weights/layer.0": histogram(step),
        "notes/example": Text(f"step *{step}* \u4f60\u597d \u2028 end"),
    }


def written(tmp_path: Path, writer_class: Any) -> Run:
    folder = tmp_path / writer_class.__name__
    folder.mkdir()
    writer = writer_class(str(folder))
    writer.write(0, {"_hparams_/session_start_info": HParams({"lr": 0.1, "layers": 2.0, "amp": True, "name": "a"})})
    for step in range(1, 9):
        writer.write(step, values_of(step))
    writer.purge(6)
    for step in range(6, 8):
        writer.write(step, values_of(10 * step))
    writer.write(0, {"_hparams_/session_end_info": HParamsEnd(True), "layout": Layout({})})
    writer.flush()
    writer.close()
    return read_run(folder)


def test_json_lines_run_equals_event_files(tmp_path: Path) -> None:
    board, lines = (written(tmp_path, writer) for writer in WRITERS)
    assert set(board.scalars) == set(lines.scalars) == {"train/loss", "odd/nan", "odd/inf"}
    for tag, series in board.scalars.items():
        assert series.steps.tolist() == lines.scalars[tag].steps.tolist() == list(range(1, 8))
        np.testing.assert_array_equal(series.values, lines.scalars[tag].values.astype(np.float32))
        assert np.abs(series.wall_times - lines.scalars[tag].wall_times).max() < 60
    assert lines.scalars["train/loss"].values[2] == 1 / 3  # all digits of a float64
    (tag,) = board.histograms
    assert lines.histograms[tag].steps.tolist() == board.histograms[tag].steps.tolist()
    for expected, buckets in zip(board.histograms[tag].buckets, lines.histograms[tag].buckets, strict=True):
        np.testing.assert_array_equal(buckets, expected)
    assert lines.texts["notes/example"].values == board.texts["notes/example"].values
    assert lines.hparams == board.hparams
    assert (lines.left_out, lines.lacks, lines.source) == ((), (), "metrics.jsonl")


def test_json_lines_each_line_is_json(tmp_path: Path) -> None:
    writer = JsonLinesWriter(str(tmp_path))
    writer.write(3, values_of(3))
    writer.write(0, {"end": HParamsEnd(False), "layout": Layout({})})
    writer.write(4, {"layout": Layout({})})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    first, second = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(first, parse_constant=refuse)["odd/nan"] == "NaN"
    fields = json.loads(second)
    assert (fields["step"], fields["end"]) == (0, {"status": "failed"})


def test_json_lines_reserved_tags_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = JsonLinesWriter(str(tmp_path))
    for step in (1, 2):
        writer.write(step, {"step": 7.0, "wall_time": 8.0, "global_step": 100.0 * step, "loss": 0.5})
    run = read_run(tmp_path)
    assert {tag: series.steps.tolist() for tag, series in run.scalars.items()} == {
        "global_step": [1, 2],
        "loss": [1, 2],
    }
    assert caplog.text.count("is left out of") == 2


def test_json_lines_remote_folder_error_named() -> None:
    with pytest.raises(ValueError, match="must be a local folder, got 's3://bucket/run'"):
        JsonLinesWriter("s3://bucket/run")


def test_json_lines_folder_is_used(tmp_path: Path) -> None:
    assert unused(str(tmp_path)) == str(tmp_path)
    JsonLinesWriter(str(tmp_path)).write(1, {"loss": 1.0})
    assert unused(str(tmp_path)) == f"{tmp_path}_2"
