"""Tests a plain loop under accelerate, and the tracker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.plugins.hparams import metadata

from tbx_callbacks import TbxLoop, TbxTracker
from tests.helpers.data import EVERY_KIND as SET
from tests.helpers.data import collate, rows
from tests.helpers.models import bert
from tests.helpers.runs import Run


def test_loop_under_accelerate_clip_norm_exact(tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = bert()
    loader = torch.utils.data.DataLoader(rows(32), batch_size=4, collate_fn=collate)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3), loader)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, log_every=2, max_grad_norm=0.1) as loop:
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    loop.before_clip()
                    expected = accelerator.clip_grad_norm_(model.parameters(), 0.1).item()
                optimizer.step()
                optimizer.zero_grad()
            loop.end_step(loss=loss, samples=4, tokens=batch["attention_mask"].sum())
    read = Run(tmp_path)
    assert read.steps("train/loss") == read.steps("grad_norm/bert.encoder.layer.0") == [2, 4]
    assert read.at("grad_norm/total")[4] == pytest.approx(expected, rel=1e-5)


def test_tracker_writes_what_accelerator_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from accelerate import Accelerator

    tracker = TbxTracker(tmp_path / "run")
    accelerator = Accelerator(cpu=True, log_with=tracker)
    assert tracker.log_dir is None  # nothing is written before init_trackers
    accelerator.init_trackers("project", config={"lr": 1e-3, "model": {"name": "bert", "layers": 2}})
    accelerator.log({"train_loss": 0.5, "epoch": 1, "note": "words"}, step=3)
    accelerator.log({"train_loss": torch.tensor(0.25), "eval": {"accuracy": 0.75}, "my tag": np.float32(2)}, step=6)
    accelerator.log({"late": 1.5, "broken": [1, 2]})
    accelerator.log({"broken": torch.zeros(2)})
    accelerator.get_tracker("tbx_callbacks", unwrap=True).add_scalar("own", 4.0, 2)
    accelerator.end_training()
    read = Run(tmp_path / "run")
    assert read.scalars == {
        "train_loss": [(3, 0.5), (6, 0.25)],
        "epoch": [(3, 1.0)],
        "eval/accuracy": [(6, 0.75)],
        "my_tag": [(6, 2.0)],
        "late": [(7, 1.5)],
        "own": [(2, 4.0)],
    }
    assert read.texts == {"note": ["words"]}
    start = metadata.parse_session_start_info_plugin_data(read.plugin("hparams")["_hparams_/session_start_info"])
    assert start.hparams["lr"].number_value == 1e-3
    assert start.hparams["model/name"].string_value == "bert"
    assert "_hparams_/session_end_info" in read.plugin("hparams")
    assert [message for message in caplog.messages if "broken" in message] == [
        "broken is left out: it is no number or text, but [1, 2]; log a number"
    ]


def test_tracker_without_folder_uses_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator

    monkeypatch.chdir(tmp_path)
    for folder in (None, "wanted", "wanted"):
        if folder is not None:
            monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", folder)
        tracker = TbxTracker()
        accelerator = Accelerator(cpu=True, log_with=[tracker])
        accelerator.init_trackers("project")
        accelerator.log({"loss": 1.0}, step=1)
        accelerator.end_training()
        assert Run(tracker.log_dir).scalars == {"loss": [(1, 1.0)]}
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "wanted", "wanted_2"]
    assert tracker.log_dir == str(tmp_path / "wanted_2")


def test_tracker_on_other_rank_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    tracker = TbxTracker(tmp_path / "run")
    tracker.start()
    tracker.store_init_configuration({"lr": 1})
    tracker.log({"loss": 1.0}, step=1)
    tracker.tracker.add_scalar("loss", 1.0, 1)
    tracker.finish()
    assert list(tmp_path.iterdir()) == []
