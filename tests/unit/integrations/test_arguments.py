"""Tests that wrong arguments of users are refused with the rule and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tbx_callbacks import Session, TbxLoop

MODEL = nn.Linear(2, 2)
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TbxLoop([MODEL, MODEL], OPTIMIZER), r"model must be a torch.nn.Module, got list; put several models"),  # type: ignore[arg-type]
        (lambda: TbxLoop({"a": MODEL}, OPTIMIZER), r"model must be a torch.nn.Module, got dict; put several models"),  # type: ignore[arg-type]
        (lambda: TbxLoop(OPTIMIZER, MODEL), r"model must be a torch.nn.Module, got SGD; pass the model that"),  # type: ignore[arg-type]
        (lambda: TbxLoop(MODEL, MODEL.parameters()), r"an optimizer must be a torch.optim.Optimizer, got generator"),  # type: ignore[arg-type]
        (
            lambda: TbxLoop(MODEL, OPTIMIZER, logdir="x"),
            r"logdir must be a known argument, got logdir='x'; did you mean 'log_dir'",
        ),
        (
            lambda: TbxLoop(MODEL, OPTIMIZER, log_evry=1),
            r"log_evry must be a known argument, .* did you mean 'log_every'",
        ),
        (lambda: Session("minimal", logdir="x"), r"logdir must be a known argument, .* did you mean 'log_dir'"),  # type: ignore[arg-type]
        (lambda: Session("minimal", log_dir=3), r"log_dir must be a path, got 3; pass the run's folder"),  # type: ignore[arg-type]
        (lambda: TbxLoop(MODEL, OPTIMIZER, log_every="10"), r"log_every must be a whole number of steps, got '10'"),  # type: ignore[arg-type]
        (lambda: TbxLoop(MODEL, OPTIMIZER, log_every=0), r"log_every must be at least 1 step, got 0; pass the logging"),
        (lambda: TbxLoop(MODEL, OPTIMIZER, start_step=-1), r"start_step must be at least 0, got -1"),
        (lambda: TbxLoop(MODEL, OPTIMIZER, steps_per_epoch=2.5), r"steps_per_epoch must be a whole number of steps"),  # type: ignore[arg-type]
        (lambda: TbxLoop(MODEL, OPTIMIZER, max_grad_norm="1"), r"max_grad_norm must be a number, got '1'"),  # type: ignore[arg-type]
        (lambda: TbxLoop(MODEL, OPTIMIZER, hparams="lr=1"), r"hparams must be a mapping of names to values, got str"),  # type: ignore[arg-type]
    ],
)
def test_wrong_argument_refused_with_remedy(
    make: Callable[[], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=message):
        make()
    assert not list(tmp_path.iterdir())
    assert not OPTIMIZER._optimizer_step_post_hooks


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loop: loop.log("tag", "3"), r"tag must be a number or a tensor with one element, got '3'; pass float"),
        (lambda loop: loop.log(3.0, "tag"), r"tag must be a string, got 3\.0; write log\(tag, value\)"),
        (lambda loop: loop.log("tag", None), r"tag must be a number or a tensor with one element, got None"),
        (lambda loop: loop.log_dict({"a": [1]}), r"a must be a number or a tensor with one element, got \[1\]"),
        (lambda loop: loop.evaluate(accuracy="0.5"), r"accuracy must be a number or .*, got '0\.5'; pass float"),
        (lambda loop: loop.evaluate(accuracy=torch.ones(2)), r"accuracy must be a scalar, got shape \(2,\); reduce it"),
        (lambda loop: loop.evaluate({"accuracy": 1}), r"dataset must be a name, got .*; pass metrics by name"),
        (lambda loop: loop.evaluate("my set", accuracy=1), r"a tag must be made of .*, got 'eval/my set_'"),
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_wrong_value_refused_on_every_rank(
    call: Callable[[TbxLoop], Any], message: str, rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    with TbxLoop(MODEL, OPTIMIZER, "minimal", log_dir=tmp_path) as loop:
        monkeypatch.setenv("RANK", rank)
        with pytest.raises((TypeError, ValueError), match=message):
            call(loop)
        loop.evaluate(accuracy=np.float32(0.5), loss=torch.tensor([0.25]))
    assert not OPTIMIZER._optimizer_step_post_hooks
