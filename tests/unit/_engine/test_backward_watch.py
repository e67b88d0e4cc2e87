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


def clamp_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad.data.clamp_(-0.01, 0.01)  # type: ignore[union-attr]


def assign(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = parameter.grad.clamp(-0.01, 0.01)  # type: ignore[union-attr]


@pytest.mark.parametrize("between", [clip, clip_value, clamp_data, assign])
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


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("is_told", [False, True])
def test_loop_with_gradscaler_only_clipping_noticed(tmp_path: Path, clips: bool, is_told: bool) -> None:
    model, scaler = nn.Linear(4, 2), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path, scaler=scaler if is_told else None) as loop:
        for _ in range(4):
            scaler.scale(model(torch.randn(3, 4)).square().mean()).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
            if clips:
                clip(model)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            loop.end_step()
    assert ("grad_norm/total" in Run(tmp_path).scalars) == (not clips)


def test_loop_clipping_optimizer_only_its_norm_left_out(tmp_path: Path) -> None:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)])
    optimizers = {"first": torch.optim.SGD(model[:2].parameters(), lr=0.1)}
    optimizers["second"] = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with TbxLoop(model, optimizers, SET, log_dir=tmp_path) as loop:
        for _ in range(4):
            model.zero_grad()
            model[2](model[1](model[0](torch.randn(3, 4)))).square().mean().backward()
            clip(model[2])
            for optimizer in optimizers.values():
                optimizer.step()
            loop.end_step()
    run = Run(tmp_path)
    assert run.steps("grad_norm/first/total") == [2, 4]
    assert "grad_norm/second/total" not in run.scalars


def test_loop_clipping_in_closure_noticed(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    with TbxLoop(model, optimizer, SET, log_dir=tmp_path) as loop:
        for _ in range(4):

            def closure(x: Any = torch.randn(3, 4)) -> Any:  # noqa: B008
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                clip(model)
                return loss

            optimizer.step(closure)
            loop.end_step()
    assert "grad_norm/total" not in Run(tmp_path).scalars
