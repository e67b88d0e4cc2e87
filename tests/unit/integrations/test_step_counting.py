"""Tests that a batch in which any optimizer steps is a step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.integrations.step_counting import StepCounter
from tbx_callbacks.rules.base import Action
from tbx_callbacks.writers.base import MemoryWriter

METRICS = ["loss", "learning_rate", {"weight_norm": {"by": "total"}}]


class Training:
    def __init__(self) -> None:
        model = nn.Linear(2, 2)
        self.first, self.second = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
        self.writer = MemoryWriter()
        config = load_config({"every": 1, "metrics": METRICS})
        self.engine = Engine(config.items, every=config.every, strict=True, writer=self.writer)
        info = TrainingInfo(model, {"first": self.first, "second": self.second}, log_schedule=2)
        self.counter = StepCounter(self.engine, info, 0)
        self.engine.start(info)
        self.counter.begin()

    def end_batch(self, loss: float, *, samples: int = 1, epoch: float | None = None) -> Action:
        return self.counter.end_batch(torch.tensor(loss), samples, None, epoch)

    def end(self) -> None:
        self.engine.end(self.counter.step, succeeded=True)


def test_step_counter_accumulated_batches_averaged() -> None:
    training = Training()
    for number, loss in enumerate((1.0, 2.0, 3.0, 6.0), 1):
        if number % 2 == 0:
            training.first.step()
            training.second.step()
        assert training.end_batch(loss, epoch=number / 4) is Action.NONE
    assert (training.counter.step, training.counter.stepped) == (2, False)
    training.end()
    assert training.writer.series("train/loss") == [(2, 3.0)]
    assert training.writer.series("train/epoch") == [(2, 1.0)]
    assert training.writer.series("train/learning_rate") == [(2, 0.1)]
    assert [step for step, _ in training.writer.series("weight_norm/first/total")] == [1, 2]


def test_step_counter_any_optimizer_makes_a_step() -> None:
    training = Training()
    for optimizers in ([training.second], [training.first] * 3, [], [training.first, training.second]):
        for optimizer in optimizers:
            optimizer.step()
        training.end_batch(1.0)
    training.end()
    assert training.counter.step == 3
    assert [step for step, _ in training.writer.series("weight_norm/first/total")] == [2, 3]
    assert [step for step, _ in training.writer.series("weight_norm/second/total")] == [1, 3]


def test_step_counter_evaluation_belongs_to_step_in_progress() -> None:
    training = Training()
    training.first.step()
    training.counter.add_evaluation({"eval/accuracy": 0.5})
    assert training.writer.series("eval/accuracy") == []
    training.end_batch(1.0)
    training.end()
    assert training.writer.series("eval/accuracy") == [(1, 0.5)]


def test_step_counter_batches_without_step_warn(caplog: pytest.LogCaptureFixture) -> None:
    training = Training()
    for _ in range(100):
        training.end_batch(1.0)
    training.counter.warn_if_idle()
    assert [record.getMessage() for record in caplog.records] == [
        "no step is written: no optimizer of this model has stepped in 100 micro-batches; call optimizer.step(), and"
        " pass the optimizer that has this model's parameters"
    ]
    training.end()
