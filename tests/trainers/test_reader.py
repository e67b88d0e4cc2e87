"""Tests the reader on runs of this callback and of the trainer's own callback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tbx_callbacks import TbxTrainerCallback
from tbx_callbacks.runs.reader import find_runs, read_run
from tests.helpers.data import EVERY_KIND
from tests.helpers.models import trainer
from tests.helpers.runs import Run


def test_reader_run_of_callback_equals_event_accumulator(tmp_path: Path) -> None:
    callback = TbxTrainerCallback(EVERY_KIND, log_dir=str(tmp_path / "run"))
    trainer(tmp_path / "out", callbacks=[callback], eval_strategy="steps", eval_steps=4).train()
    callback.close()
    ours, theirs = read_run(tmp_path / "run"), Run(tmp_path / "run")
    assert set(ours.scalars) == set(theirs.scalars)
    for tag, series in ours.scalars.items():
        assert dict(zip(series.steps.tolist(), series.values.tolist(), strict=True)) == theirs.at(tag), tag
        assert (np.diff(series.steps) > 0).all()
        assert (series.wall_times > 1.6e9).all()
    assert {tag: text.values[-1] for tag, text in ours.texts.items()} == {
        tag: values[-1] for tag, values in theirs.texts.items()
    }
    assert set(ours.histograms) == set(theirs.histograms)
    for tag, histograms in ours.histograms.items():
        for step, buckets in zip(histograms.steps, histograms.buckets, strict=True):
            proto = theirs.histograms[tag][step]
            assert buckets[:, 2].sum() == proto.num
            assert (buckets[0, 0], buckets[-1, 1]) == (proto.min, proto.max)
            assert (buckets[1:, 0] == buckets[:-1, 1]).all()
    assert ours.last_step == 8
    assert not ours.unread


def test_reader_run_of_huggingface_callback_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "hf"))
    trainer(tmp_path / "out", report_to="tensorboard").train()
    run = read_run(tmp_path / "hf")
    assert run.scalars["train/loss"].steps.tolist() == [2, 4, 6, 8]
    assert "learning_rate" in run.texts["args"].values[0]
    assert find_runs(tmp_path / "hf")["."] == str(tmp_path / "hf")
