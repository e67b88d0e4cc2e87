"""Who pays for what, with a clock that moves only where a test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from tbx_callbacks._config.metric_spec import MetricSpec, parse_metric_spec
from tbx_callbacks._config.schedule import every
from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._engine.cost import Cost
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.snapshots import WeightSnapshot
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.metrics.values import Value
from tbx_callbacks.writers.base import MemoryWriter
from tests.helpers.fake_clock import Clock, Slow


class Watching(Slow):
    """Costs as much for each module that is seen, and nothing in the optimizer's step."""

    needs: ClassVar[frozenset[str]] = frozenset({"activations"})

    def __call__(self, context: Any) -> dict[str, Value]:
        return super().__call__(context) if context.activations else {}


class Comparing(Slow):
    """Needs weights from before the step."""

    needs: ClassVar[frozenset[str]] = frozenset({"weights_before"})


def train(clock: Clock, items: list[MetricSpec], budget: float | None, steps: int) -> Engine:
    """One second a step; stops before the training ends."""
    engine = Engine(items, every=2, strict=True, writer=MemoryWriter(), stopwatch=Stopwatch(clock), budget=budget)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine.start(TrainingInfo(model, {"SGD": optimizer}, log_schedule=every(10)))
    for step in range(1, steps + 1):
        engine.begin_step(step)
        clock.now += 1.0
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()
        engine.flush_step()
        engine.poll_actions(step)
    return engine


def costly(clock: Clock, done: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but half a second longer."""

    def longer(*args: Any, **kwargs: Any) -> Any:
        clock.now += 0.5
        return done(*args, **kwargs)

    return longer


def periods(engine: Engine) -> dict[str, str]:
    return {entry.spec.name: str(entry.schedule) for entry in engine._runner.metric_runs}


def test_what_is_seen_in_the_forward_pass_is_time_of_its_metric() -> None:
    clock = Clock()
    items = [MetricSpec("watching", Watching("watching", 0.25, clock)), MetricSpec("idle", Slow("idle", 0.0, clock))]
    engine = train(clock, items, None, steps=20)
    watching, idle = engine._runner.metric_runs
    assert engine.stopwatch.monitoring == pytest.approx(10 * 2 * 0.25)  # two modules
    assert (watching.cost.runs, watching.cost.total, idle.cost.total) == (10, pytest.approx(10 * 0.5), 0.0)
    assert periods(train(clock, items, 0.01, steps=20)) == {"watching": "every 50 steps", "idle": "every 2 steps"}


def test_copies_are_paid_by_those_that_compare_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(WeightSnapshot, "take", costly(clock, WeightSnapshot.take))
    monkeypatch.setattr(WeightSnapshot, "updates", costly(clock, WeightSnapshot.updates))
    items = [MetricSpec(name, Comparing(name, 0.0, clock)) for name in ("one", "two")]
    items += [MetricSpec("idle", Slow("idle", 0.0, clock))]
    engine = train(clock, items, None, steps=20)
    assert engine.stopwatch.monitoring == pytest.approx(10 * 1.0)
    assert [entry.cost.total for entry in engine._runner.metric_runs] == pytest.approx([5.0, 5.0, 0.0])
    found = periods(train(clock, items, 0.01, steps=20))
    assert found == {"one": "every 100 steps", "two": "every 100 steps", "idle": "every 2 steps"}


def test_histograms_pay_for_their_counting_and_all_that_read_tensors_are_stretched_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(StepValues, "count_histograms", costly(clock, StepValues.count_histograms))
    norms = [parse_metric_spec("weight_norm", {"by": by}, "here") for by in ("total", "layer")]
    items = [*norms, *(parse_metric_spec(name, {}, "here") for name in ("weight_histogram", "learning_rate"))]
    engine = train(clock, items, 0.01, steps=10)
    stretched = {"weight_norm": "every 50 steps", "weight_histogram": "every 50 steps"}
    assert periods(engine) == {**stretched, "learning_rate": "every 2 steps"}


def test_what_a_device_took_belongs_to_its_run_however_late_it_is_known() -> None:
    cost = Cost()
    for step in (4, 4, 8, 12):
        cost.add(1.0, step)
    cost.add_delayed(5.0, 4)
    cost.add_delayed(0.5, 8)
    assert (cost.runs, cost.total, cost.per_step) == (3, 9.5, 2.5 / 8)
