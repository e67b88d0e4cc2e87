"""Tests that a training under the HF Trainer that resumes measures the distance from its first start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.models import bert, trainer
from tests.helpers.oracles import norm
from tests.helpers.runs import Run

SET: dict[str, Any] = {"every": 2, "strict": True, "metrics": ["loss", "drift", {"drift": {"by": "total"}}]}
SAVING: dict[str, Any] = {"logging_steps": 2, "save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps"}
SAVING |= {"eval_steps": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 0.1}


def test_resumed_trainer_compares_with_first_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = {name: parameter.detach().clone() for name, parameter in bert().named_parameters()}
    first = TbxTrainerCallback(SET)
    trainer(tmp_path / "out", callbacks=[first], **SAVING, max_steps=4).train()
    second = TbxTrainerCallback(SET)
    run = trainer(tmp_path / "out", callbacks=[second], **SAVING, max_steps=8)
    run.train(resume_from_checkpoint=True)
    assert second.log_dir == first.log_dir
    read = Run(second.log_dir)
    assert read.steps("drift/total") == [2, 4, 6, 8]
    now = {name: parameter.detach().cpu() for name, parameter in run.model.named_parameters()}
    change = {name: now[name].double() - start[name].double() for name in start}
    assert read.at("drift/total")[8] == pytest.approx(norm(change) / norm(start), rel=1e-5)
    moved = sum(int((change[name] != 0).sum()) for name in start) / sum(tensor.numel() for tensor in start.values())
    assert read.at("moved_share/total")[8] == pytest.approx(moved)
    assert "left out" not in caplog.text


def test_trainer_weights_unchanged_by_drift(tmp_path: Path) -> None:
    ends = []
    for config in (SET, {"metrics": ["loss"]}):
        run = trainer(tmp_path / str(len(ends)), callbacks=[TbxTrainerCallback(config)], max_steps=6)
        run.train()
        ends.append([parameter.detach().clone() for parameter in run.model.parameters()])
    assert all(map(torch.equal, *ends))
