"""Trains a small model that drives the engine directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.schedule import every
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.writers.base import MemoryWriter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def train_engine(
    metrics: list[Any], steps: int = 6, each: Callable[[int, Engine], None] = lambda step, engine: None, **setup: Any
) -> tuple[MemoryWriter, Clock]:
    """Trains, half a second a step; calls `each(step, engine)` before each forward pass. `setup`: see TrainingInfo."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config, writer, clock = load_config({"every": 2, "metrics": metrics}), MemoryWriter(), Clock()
    engine = Engine(config.items, every=config.every, strict=False, writer=writer, stopwatch=Stopwatch(clock))
    engine.start(TrainingInfo(model, {"SGD": optimizer}, log_schedule=every(3), **setup))
    for step in range(1, steps + 1):
        engine.begin_step(step)
        each(step, engine)
        optimizer.zero_grad()
        loss = model(torch.randn(5, 4)).square().mean()
        loss.backward()
        engine.record_batch(loss=loss, samples=5, tokens=torch.tensor(7))
        clock.now += 0.5
        optimizer.step()
        engine.flush_step()
    engine.end(steps, succeeded=True)
    return writer, clock
