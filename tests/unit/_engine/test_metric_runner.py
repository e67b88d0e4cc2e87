"""Tests that each metric of a training runs at its own cadence and interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.schedule import every, never
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.metrics import Context, Max, Metric, Values
from tbx_callbacks.writers.base import MemoryWriter
from tests.helpers.engine_runs import train_engine as loop


def test_runner_each_metric_own_cadence_and_interval() -> None:
    writer, _ = loop(
        ["throughput", {"weight_norm": {"every": 3}}, {"grad_norm": {"every": "log", "by": "total"}}], steps=7
    )
    assert [step for step, _ in writer.series("perf/step_s")] == [2, 4, 6]
    assert [step for step, _ in writer.series("weight_norm/0")] == [3, 6]
    assert [step for step, _ in writer.series("grad_norm/total")] == [3, 6]


def test_runner_throughput_leaves_out_pauses() -> None:
    def pause(step: int, engine: Engine) -> None:
        if step == 4:  # an evaluation of 100 s does not count
            engine.stopwatch.pause()
            engine.stopwatch.clock.now += 100  # type: ignore[attr-defined]
            engine.stopwatch.resume()

    writer, _ = loop(["throughput"], each=pause)
    assert writer.series("perf/step_s") == [(2, 0.5), (4, 0.5), (6, 0.5)]
    assert writer.series("perf/samples_per_s") == [(2, 10.0), (4, 10.0), (6, 10.0)]
    assert writer.series("perf/tokens_per_s") == [(2, 14.0), (4, 14.0), (6, 14.0)]


def test_runner_counts_many_micro_batches() -> None:
    bad = torch.tensor(float("nan"))

    def many(step: int, engine: Engine) -> None:
        for index in range(200):
            engine.record_batch(loss=bad if index % 50 == 0 else torch.tensor(1.0), samples=1, tokens=torch.tensor(2))

    writer, _ = loop(["throughput", "nonfinite"], each=many)
    assert writer.series("nonfinite/losses") == [(2, 8.0), (4, 8.0), (6, 8.0)]
    assert writer.series("perf/tokens_per_s")[0] == (2, (2 * (200 * 2 + 7)) / 1.0)


def test_runner_clipping_by_value_no_factor() -> None:
    writer, _ = loop(["clip", "grad_norm", "grad_norm_clipped"], clipping="other")
    tags = {tag for _, values in writer.batches for tag in values}
    assert tags == {"grad_norm_clipped/total"}


def test_runner_step_without_due_metrics_writes_nothing() -> None:
    writer, _ = loop([{"weight_norm": {"every": 5}}], steps=4)
    assert [values for step, values in writer.batches if step] == []


def test_runner_learning_rates_named_by_group() -> None:
    model = nn.Linear(2, 2)
    groups = [{"params": [model.weight], "name": "no decay"}, {"params": [model.bias], "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    config, writer = load_config({"every": 1, "metrics": ["learning_rate"]}), MemoryWriter()
    engine = Engine(config.items, every=1, strict=True, writer=writer)
    engine.start(TrainingInfo(model, {"SGD": optimizer}, log_schedule=never))
    engine.begin_step(1)
    optimizer.step()
    engine.flush_step()
    assert writer.batches[-1] == (1, {"lr/SGD/no_decay": 0.1, "lr/SGD/pg2": 0.5})


def test_runner_second_training_own_throughput() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    now, writer = [0.0], MemoryWriter()
    (item,) = load_config({"metrics": ["throughput"]}).items
    engine = Engine([item], every=2, strict=True, writer=writer, stopwatch=Stopwatch(lambda: now[0]))
    for _ in range(2):
        engine.start(TrainingInfo(model, {"SGD": optimizer}, log_schedule=every(2)))
        for step in range(1, 5):
            engine.begin_step(step)
            now[0] += 3.0
            optimizer.step()
            engine.flush_step()
        now[0] += 1000.0  # an exception ended the training without a call
    assert [value for _, value in writer.series("perf/step_s")] == pytest.approx([3.0] * 4)


@dataclass(frozen=True)
class Points(Metric):
    """Counts its own calls, at every event."""

    tags: ClassVar = {"points": ""}
    events: ClassVar = frozenset({"start", "step"})

    def __call__(self, context: Context) -> Values:
        context.state["calls"] = context.state.get("calls", 0) + 1
        return {"points": Max(float(context.state["calls"]))}


@dataclass(frozen=True)
class OtherPoints(Points):
    tags: ClassVar = {"points/other": ""}

    def __call__(self, context: Context) -> Values:
        return {"points/other": super().__call__(context)["points"]}


def test_state_belongs_to_metric_and_training() -> None:
    for _ in range(2):  # the second training starts with an empty state
        writer, _ = loop([f"{__name__}.Points", {f"{__name__}.OtherPoints": {"every": 3}}])
        assert writer.series("points") == [(0, 1.0), (2, 2.0), (4, 3.0), (6, 4.0)]
        assert writer.series("points/other") == [(0, 1.0), (3, 2.0), (6, 3.0)]
