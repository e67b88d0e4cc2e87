"""The engine by itself, driven by a plain loop into a MemorySink."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks import ConfigError, TbxLoop
from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._config.schedule import at, either, every, never
from tbx_callbacks._distributed.messages import Messages, incoming
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.writers.base import MemoryWriter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def loop(
    metrics: list[Any], steps: int = 6, each: Callable[[int, Engine], None] = lambda step, engine: None, **setup: Any
) -> tuple[MemoryWriter, Clock]:
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


def test_schedules() -> None:
    assert [step for step in range(1, 10) if either(every(4), at(1, 7))(step)] == [1, 4, 7, 8]
    assert not any(never(step) for step in range(10))
    with pytest.raises(ValueError, match="every must be at least 1 step, got 0"):
        every(0)


def test_each_item_has_its_own_cadence_and_interval() -> None:
    writer, _ = loop(
        ["throughput", {"weight_norm": {"every": 3}}, {"grad_norm": {"every": "log", "by": "total"}}], steps=7
    )
    assert [step for step, _ in writer.series("perf/step_s")] == [2, 4, 6]
    assert [step for step, _ in writer.series("weight_norm/0")] == [3, 6]
    assert [step for step, _ in writer.series("grad_norm/total")] == [3, 6]


def test_throughput_with_an_injected_clock() -> None:
    def pause(step: int, engine: Engine) -> None:
        if step == 4:  # an evaluation of 100 s that does not count
            engine.stopwatch.pause()
            engine.stopwatch.clock.now += 100  # type: ignore[attr-defined]
            engine.stopwatch.resume()

    writer, _ = loop(["throughput"], each=pause)
    assert writer.series("perf/step_s") == [(2, 0.5), (4, 0.5), (6, 0.5)]
    assert writer.series("perf/samples_per_s") == [(2, 10.0), (4, 10.0), (6, 10.0)]
    assert writer.series("perf/tokens_per_s") == [(2, 14.0), (4, 14.0), (6, 14.0)]


def test_counters_over_more_micro_batches_than_are_kept() -> None:
    bad = torch.tensor(float("nan"))

    def many(step: int, engine: Engine) -> None:
        for place in range(200):
            engine.record_batch(loss=bad if place % 50 == 0 else torch.tensor(1.0), samples=1, tokens=torch.tensor(2))

    writer, _ = loop(["throughput", "nonfinite"], each=many)
    assert writer.series("nonfinite/losses") == [(2, 8.0), (4, 8.0), (6, 8.0)]
    assert writer.series("perf/tokens_per_s")[0] == (2, (2 * (200 * 2 + 7)) / 1.0)


def test_clipping_by_value_has_no_factor_and_no_norm_before_it() -> None:
    writer, _ = loop(["clip", "grad_norm", "grad_norm_clipped"], clipping="other")
    tags = {tag for _, values in writer.batches for tag in values}
    assert tags == {"grad_norm_clipped/total"}


def test_own_scalars_may_not_take_a_metrics_tag() -> None:
    def take(step: int, engine: Engine) -> None:
        with pytest.raises(ValueError, match="tag must not be one that a metric writes"):
            engine.log("weight_norm/0", 1.0)

    loop(["weight_norm"], each=take)


def test_nothing_is_measured_on_steps_with_nothing_due() -> None:
    writer, _ = loop([{"weight_norm": {"every": 5}}], steps=4)
    assert [values for step, values in writer.batches if step] == []


def test_sharded_parameters_are_refused_not_misread(caplog: pytest.LogCaptureFixture) -> None:
    writer, _ = loop(["weight_norm", "throughput"], sharding="DTensor (FSDP2 or tensor parallel)")
    assert {tag.split("/")[0] for _, values in writer.batches for tag in values} == {"perf"}
    assert "parameter sharding is not supported: DTensor" in caplog.text
    assert "weight_norm" in caplog.text


def test_parameter_groups_go_by_their_names() -> None:
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


def test_speed_in_a_second_training_is_its_own() -> None:
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
        now[0] += 1000.0  # an exception ended it, and nobody told
    assert [value for _, value in writer.series("perf/step_s")] == pytest.approx([3.0] * 4)


def test_a_loop_that_cannot_begin_leaves_nothing_in_the_optimizer(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError):
        TbxLoop(model, optimizer, {"metrics": [{"grad_norm": {"include": "nothing"}}]}, log_dir=tmp_path)
    assert not optimizer._optimizer_step_post_hooks


def test_decisions_that_leave_together_are_united() -> None:
    decisions = Messages(0)
    decisions.subscribe("rules", lambda numbers: None)
    decisions.send("rules", {"STOP": 1.0})
    decisions.send("rules", {"CHECKPOINT": 1.0})
    told = incoming({tag: part.maxes for tag, part in decisions.outgoing().items()})
    assert list(told) == [("rules", {"STOP": 1.0, "CHECKPOINT": 1.0})]
