"""Tests trainings whose model or optimizer is not what a trainer usually passes to callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from tbx_callbacks import TbxTrainerCallback
from tests.helpers.models import bert, trainer
from tests.helpers.runs import Run

SET = {
    "every": 1,
    "metrics": ["loss", "learning_rate", {"weight_norm": {"by": "total"}}, {"grad_norm": {"by": "total"}}, "nonfinite"],
}


class Wrapper:
    """An object around the model, as some trainers pass it to callbacks."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


def train(folder: Path, callback: TrainerCallback, passed: Any, **options: Any) -> Trainer:
    """Trains while the callback gets another model than the Trainer has."""
    made = trainer(folder, callbacks=[callback], max_steps=3, logging_steps=1, **options)
    handler = made.callback_handler
    call_event = handler.call_event

    def call(event: str, *args: Any, **kwargs: Any) -> Any:
        handler.model, kept = passed(made.model), handler.model
        try:
            return call_event(event, *args, **kwargs)
        finally:
            handler.model = kept

    handler.call_event = call
    made.train()
    return made


def test_huggingface_model_in_wrapper_measured(tmp_path: Path) -> None:
    callback = TbxTrainerCallback({**SET, "strict": True})
    made = train(tmp_path, callback, lambda model: Wrapper(model_body=model, head=object()))
    run = Run(callback.log_dir)
    total = torch.cat([p.detach().double().reshape(-1) for p in made.model.parameters()]).norm()
    assert run.at("weight_norm/total")[3] == pytest.approx(float(total), rel=1e-5)
    assert run.steps("train/loss") == run.steps("grad_norm/total") == [1, 2, 3]


@pytest.mark.parametrize("parts", [{}, {"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)}])
def test_huggingface_without_module_trainer_numbers_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, parts: dict[str, Any]
) -> None:
    callback = TbxTrainerCallback(SET)
    train(tmp_path, callback, lambda _: Wrapper(**parts))
    run = Run(callback.log_dir)
    assert run.steps("train/loss") == [1, 2, 3]
    assert "weight_norm/total" not in run.scalars
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("tbx_callbacks")]
    assert message.startswith("only the trainer's own numbers are written: this training cannot be read; model must be")


class NoHooks:
    """An optimizer that is not one of torch."""

    def __init__(self, parameters: Any) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": 0.1}]
        self.state: dict[Any, Any] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(group["lr"] * parameter.grad)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def train(self) -> None: ...

    eval = train


class Scheduler:
    """Halves the rate after each step."""

    def __init__(self, optimizer: NoHooks) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        self.optimizer.param_groups[0]["lr"] /= 2

    def get_last_lr(self) -> list[float]:
        return [self.optimizer.param_groups[0]["lr"]]

    def state_dict(self) -> dict[str, Any]:
        return {}


def test_huggingface_optimizer_without_hooks_weights_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, callback = bert(), TbxTrainerCallback(SET)
    optimizer = NoHooks(model.parameters())
    norms = []

    class Recorder(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            norms.append(float(torch.cat([p.detach().double().reshape(-1) for p in model.parameters()]).norm()))

    made = trainer(
        tmp_path,
        model=model,
        callbacks=[callback, Recorder()],
        max_steps=3,
        logging_steps=1,
    )
    made.optimizer, made.lr_scheduler = optimizer, Scheduler(optimizer)
    made.accelerator.prepare = lambda *parts: parts if len(parts) > 1 else parts[0]
    made.train()
    run = Run(callback.log_dir)
    assert [value for _, value in run.scalars["weight_norm/total"]] == pytest.approx(norms, rel=1e-5)
    assert run.at("lr/NoHooks/pg1") == pytest.approx({1: 0.1, 2: 0.05, 3: 0.025})
    assert run.steps("train/loss") == [1, 2, 3]
    assert "grad_norm/total" not in run.scalars
    assert "nonfinite/gradients/total" not in run.scalars
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("tbx_callbacks")]
    assert [message for message in messages if message.startswith("grad_norm, nonfinite: left out")]
