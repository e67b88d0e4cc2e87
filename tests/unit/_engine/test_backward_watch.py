"""Tests that a loop which clips without telling so gets no norm of clipped gradients as `grad_norm`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks import TbxLoop
from tests.helpers.runs import Run

SET = {"every": 2, "strict": True, "metrics": [{"grad_norm": {"by": "total"}}, {"grad_norm_clipped": {"by": "total"}}]}


def clip(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)


def clip_value(model: nn.Module) -> None:
    nn.utils.clip_grad_value_(model.parameters(), 0.01)


def nothing(model: nn.Module) -> None: ...


def train(folder: Path, between: Callable[[nn.Module], None], *, micro: int = 1, **options: Any) -> Run:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with TbxLoop(model, optimizer, SET, log_dir=folder, **options) as loop:
        for _ in range(6):
            for part in range(micro):
                loss = model(torch.randn(3, 4)).square().mean()
                loss.backward()
                if part == micro - 1:
                    between(model)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=micro == 1)
                loop.end_step(loss=loss)
    assert not model.weight._post_accumulate_grad_hooks  # type: ignore[attr-defined]
    return Run(folder)


@pytest.mark.parametrize("between", [clip, clip_value])
@pytest.mark.parametrize("micro", [1, 3])
def test_loop_undeclared_clipping_norm_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, between: Callable[[nn.Module], None], micro: int
) -> None:
    run = train(tmp_path, between, micro=micro)
    assert "grad_norm/total" not in run.scalars
    assert run.steps("grad_norm_clipped/total") == [2, 4, 6]
    assert [record.getMessage() for record in caplog.records] == [
        "grad_norm: left out before clipping, because gradients change between the backward pass and the step; pass"
        " max_grad_norm, and call loop.before_clip() before clipping"
    ]


@pytest.mark.parametrize("micro", [1, 3])
def test_loop_without_clipping_norm_written(tmp_path: Path, caplog: pytest.LogCaptureFixture, micro: int) -> None:
    run = train(tmp_path, nothing, micro=micro)
    assert run.scalars["grad_norm/total"] == run.scalars["grad_norm_clipped/total"]
    assert not caplog.records


def test_loop_declared_clipping_without_call_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = train(tmp_path, clip, max_grad_norm=0.01)
    assert "grad_norm/total" not in run.scalars
    assert len(caplog.records) == 1
