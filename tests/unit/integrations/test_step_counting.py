"""Tests that steps are counted in the first optimizer's hooks."""

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
    def __init__(self, *, copies_weights: bool = False) -> None:
        model = nn.Linear(2, 2)
        self.first, self.second = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
        self.writer = MemoryWriter()
        config = load_config({"every": 1, "metrics": METRICS})
        self.engine = Engine(config.items, every=config.every, strict=True, writer=self.writer)
        info = TrainingInfo(model, {"first": self.first, "second": self.second}, log_schedule=2)
        self.counter = StepCounter(self.engine, info, 0, copies_weights=copies_weights)
        self.engine.start(info)
        self.counter.begin()

    def end_batch(self, loss: float, *, samples: int = 1, epoch: float | None = None) -> Action:
        return self.counter.end_batch(torch.tensor(loss), samples, None, epoch)

    def end(self) -> None:
        self.counter.remove_hooks()
        self.engine.end(self.counter.step, succeeded=True)


def test_step_counter_accumulated_batches_averaged() -> None:
    training = Training()
    for number, loss in enumerate((1.0, 2.0, 3.0, 6.0), 1):
        if number % 2 == 0:
            training.first.step()
            training.second.step()  # only the first optimizer's steps count
        assert training.end_batch(loss, epoch=number / 4) is Action.NONE
    assert (training.counter.step, training.counter.stepped) == (2, False)
    training.end()
    assert training.writer.series("train/loss") == [(2, 3.0)]
    assert training.writer.series("train/epoch") == [(2, 1.0)]
    assert training.writer.series("train/learning_rate") == [(2, 0.1)]
    assert [step for step, _ in training.writer.series("weight_norm/first/total")] == [1, 2]


@pytest.mark.parametrize("copies_weights", [False, True])
def test_step_counter_unreported_batches_counted(copies_weights: bool) -> None:
    training = Training(copies_weights=copies_weights)
    for _ in range(3):
        training.first.step()
    assert (training.counter.step, training.counter.stepped) == (2, True)
    training.counter.finish_step()
    training.end()
    training.first.step()
    assert (training.counter.step, training.counter.stepped) == (3, False)
    assert [step for step, _ in training.writer.series("weight_norm/first/total")] == [1, 2, 3]
    assert training.writer.series("train/loss") == []
