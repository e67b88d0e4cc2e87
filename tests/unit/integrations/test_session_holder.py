"""Tests that a callback offers users the run of its session."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tbx_callbacks.integrations import TrainingInfo
from tbx_callbacks.integrations.session_holder import SessionHolder
from tests.helpers.runs import Run

SET = {"every": 1, "metrics": [{"weight_norm": {"by": "total"}}]}


def test_session_holder_passes_calls_on(tmp_path: Path) -> None:
    holder = SessionHolder(SET, log_dir=tmp_path)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    holder._session.start(TrainingInfo(model, optimizer, log_schedule=1))
    optimizer.step()
    holder._session.end_batch()
    holder.log("mine/x", 2.0)
    holder.writer.add_scalar("mine/y", 3.0, holder.step)
    holder.close()
    read = Run(holder.log_dir)
    assert (holder.step, holder.log_dir) == (1, str(tmp_path))
    assert holder.config.every == 1
    assert (read.at("mine/x"), read.at("mine/y")) == ({1: 2.0}, {1: 3.0})
    assert read.steps("weight_norm/total") == [1]


def test_session_holder_without_folder_refuses_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    with pytest.raises(RuntimeError, match="writer must be used after the callback was given to a Trainer"):
        _ = SessionHolder(SET).writer
