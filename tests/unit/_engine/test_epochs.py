"""Tests metrics and rules whose cadence is a number of epochs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.schedule import EveryEpochs, every
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.epochs import Cadences
from tbx_callbacks._engine.metric_plan import axis_specs
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.writers.base import MemoryWriter


def train(source: dict[str, Any], steps_per_epoch: int | None, steps: int = 12) -> MemoryWriter:
    config, writer = load_config({"strict": True, **source}), MemoryWriter()
    items = [*config.items, *axis_specs(config.axis)]
    engine = Engine(items, every=config.every, strict=True, writer=writer, live=config.live)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine.start(TrainingInfo(model, {"SGD": optimizer}, every(4), steps_per_epoch=steps_per_epoch))
    for step in range(1, steps + 1):
        engine.begin_step(step)
        optimizer.step()
        engine.log("mine", 1.0)
        engine.flush_step()
    engine.end(steps, succeeded=True)
    return writer


def steps_of(writer: MemoryWriter, tag: str) -> list[int]:
    return [step for step, _ in writer.series(tag)]


NORM, BOTH = "weight_norm/total", ["memory", {"weight_norm": {"by": "total", "every": {"epochs": 0.5}}}]


def test_epochs_points_at_ends_of_epochs() -> None:
    writer = train({"every": {"epochs": 1}, "metrics": BOTH}, 5)
    assert steps_of(writer, "memory/rss_gib") == [5, 10]
    assert steps_of(writer, "mine") == [5, 10, 12]  # the rest at the end
    assert steps_of(writer, NORM) == [3, 5, 8, 10]


def test_epochs_unknown_metrics_left_out_once(caplog: pytest.LogCaptureFixture) -> None:
    writer = train({"every": 3, "metrics": BOTH, "rules": {"nonfinite": "warn", "every": {"epochs": 1}}}, None)
    assert steps_of(writer, "memory/rss_gib") == [3, 6, 9, 12]
    assert steps_of(writer, NORM) == []
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("weight_norm, rules: left out, because the number of steps per epoch is unknown; pass")
    assert "`every`" in message


def test_epochs_unknown_default_user_scalars_logged(caplog: pytest.LogCaptureFixture) -> None:
    writer = train({"every": {"epochs": 2}, "metrics": ["memory", "hparams"], "axis": ["step", "samples"]}, None)
    assert steps_of(writer, "memory/rss_gib") == []
    assert steps_of(writer, "mine") == [4, 8, 12]
    (record,) = caplog.records
    assert record.getMessage().startswith("memory: left out")


def test_cadences_without_epochs_unchanged() -> None:
    config = load_config("full")
    cadences = Cadences(config.items, config.every, config.live)
    assert cadences.resolve(None, None) is cadences


def test_cadences_ranks_agree_on_largest() -> None:
    class LongerRank:
        def max_reduce(self, numbers: dict[str, float]) -> dict[str, float]:
            return {name: max(number, 7.0) for name, number in numbers.items()}

    config = load_config({"every": {"epochs": 1}, "metrics": ["memory"]})
    cadences = Cadences(config.items, config.every, config.live)
    for steps in (5, None):
        assert cadences.resolve(steps, LongerRank()).every == EveryEpochs(1, 7)  # type: ignore[arg-type]
