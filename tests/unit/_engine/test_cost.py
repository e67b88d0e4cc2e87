"""Tests the cost of each metric on a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from tbx_callbacks._config.metric_spec import MetricSpec, parse_metric_spec
from tbx_callbacks._config.schedule import every
from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._engine.cost import Cost, DeviceTime, device_marker
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.snapshots import WeightSnapshot
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.metrics.values import Value
from tbx_callbacks.writers.base import MemoryWriter
from tests.helpers.fake_clock import Clock, SlowMetric


class Watching(SlowMetric):
    """A metric with a fixed cost for each module, and no cost in the optimizer's step."""

    needs: ClassVar[frozenset[str]] = frozenset({"activations"})

    def __call__(self, context: Any) -> dict[str, Value]:
        return super().__call__(context) if context.activations else {}


class Comparing(SlowMetric):
    """A metric that needs weights from before the step."""

    needs: ClassVar[frozenset[str]] = frozenset({"weights_before"})


def train(clock: Clock, items: list[MetricSpec], budget: float | None, steps: int) -> Engine:
    """Trains with one second a step; stops before the training ends."""
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
    """Takes half a second longer than the wrapped function."""

    def longer(*args: Any, **kwargs: Any) -> Any:
        clock.now += 0.5
        return done(*args, **kwargs)

    return longer


def periods(engine: Engine) -> dict[str, str]:
    return {entry.spec.name: str(entry.schedule) for entry in engine._runner.metric_runs}


def test_cost_of_forward_hooks_charged_to_metric() -> None:
    clock = Clock()
    items = [
        MetricSpec("watching", Watching("watching", 0.25, clock)),
        MetricSpec("idle", SlowMetric("idle", 0.0, clock)),
    ]
    engine = train(clock, items, None, steps=20)
    watching, idle = engine._runner.metric_runs
    assert engine.stopwatch.monitoring == pytest.approx(10 * 2 * 0.25)  # two modules
    assert (watching.cost.runs, watching.cost.total, idle.cost.total) == (10, pytest.approx(10 * 0.5), 0.0)
    assert periods(train(clock, items, 0.01, steps=20)) == {"watching": "every 50 steps", "idle": "every 2 steps"}


def test_cost_of_snapshots_split_over_needing_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(WeightSnapshot, "take", costly(clock, WeightSnapshot.take))
    monkeypatch.setattr(WeightSnapshot, "updates", costly(clock, WeightSnapshot.updates))
    items = [MetricSpec(name, Comparing(name, 0.0, clock)) for name in ("one", "two")]
    items += [MetricSpec("idle", SlowMetric("idle", 0.0, clock))]
    engine = train(clock, items, None, steps=20)
    assert engine.stopwatch.monitoring == pytest.approx(10 * 1.0)
    assert [entry.cost.total for entry in engine._runner.metric_runs] == pytest.approx([5.0, 5.0, 0.0])
    found = periods(train(clock, items, 0.01, steps=20))
    assert found == {"one": "every 100 steps", "two": "every 100 steps", "idle": "every 2 steps"}


def test_cost_of_counting_charged_to_histograms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(StepValues, "count_histograms", costly(clock, StepValues.count_histograms))
    norms = [parse_metric_spec("weight_norm", {"by": by}) for by in ("total", "layer")]
    items = [*norms, *(parse_metric_spec(name) for name in ("weight_histogram", "learning_rate"))]
    engine = train(clock, items, 0.01, steps=10)
    stretched = {
        "weight_norm": "every 60 steps",
        "weight_histogram": "every 60 steps",
    }  # six points: the first step too
    assert periods(engine) == {**stretched, "learning_rate": "every 2 steps"}


def test_cost_delayed_seconds_belong_to_their_step() -> None:
    cost = Cost()
    for step in (4, 4, 8, 12):
        cost.add(1.0, step)
    cost.add_delayed(5.0, 4)
    cost.add_delayed(0.5, 8)
    assert (cost.runs, cost.total, cost.per_step) == (3, 9.5, 2.5 / 8)


class Device:
    """A simulated device that completes an event when the test says so, at its own time."""

    def __init__(self) -> None:
        self.marks: list[Event] = []

    def mark(self) -> Event:
        self.marks.append(Event())
        return self.marks[-1]

    def passes(self, *times: float) -> None:
        for mark, at in zip(self.marks, times, strict=False):
            mark.at = at


class Event:
    at = float("nan")

    def query(self) -> bool:
        return self.at == self.at

    def elapsed_time(self, other: Event) -> float:
        assert self.query()
        assert other.query(), "an event was read that the device has not passed"
        return 1000 * (other.at - self.at)


def test_device_time_beyond_thread_added_when_known() -> None:
    device, now = Device(), [0.0]
    stopwatch = Stopwatch(lambda: now[0])
    timed = DeviceTime(stopwatch, device.mark)

    def span(thread: float) -> None:
        with timed.span(1, []):
            now[0] += thread

    span(0.5)
    span(0.1)
    assert stopwatch.monitoring == 0.0  # the device has completed no work yet
    device.passes(10.0, 12.0)
    span(0.1)
    assert stopwatch.monitoring == pytest.approx(1.5)
    device.passes(10.0, 12.0, 12.0, 12.05)  # the second took the thread longer than the device
    span(0.1)
    assert stopwatch.monitoring == pytest.approx(1.5)
    with pytest.raises(ZeroDivisionError), timed.span(1, []):
        _ = 1 / 0
    assert len(device.marks) == 10


def test_device_time_split_like_thread_time() -> None:
    device, now = Device(), [0.0]
    timed = DeviceTime(Stopwatch(lambda: now[0]), device.mark)
    one, two, other = Cost(), Cost(), Cost()
    for step in (10, 20):
        with timed.span(step, [one, two, other]):
            one.add(3.0, step)
            two.add(1.0, step)
            now[0] += 4.0
    with timed.span(20, [other]):  # no event has reported its time
        pass
    device.passes(0.0, 12.0, 20.0, 28.0, 28.0, 29.0)
    with timed.span(30, []):
        pass
    assert [cost.total for cost in (one, two, other)] == pytest.approx([6 + 9, 2 + 3, 1])
    assert one.per_step == pytest.approx(0.6)  # the first run's 6 seconds are left out


def test_device_time_events_on_stream_of_model(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[str] = []

    class Recorder:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            recorded.append(stream)

    monkeypatch.setattr(torch.cuda, "Event", Recorder)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    mark = device_marker(torch.device("cuda:1"))
    assert mark is not None
    mark()
    assert recorded == ["stream of cuda:1"]


def test_device_time_on_cpu_adds_nothing() -> None:
    assert device_marker(torch.device("cpu")) is None
    stopwatch = Stopwatch()
    with DeviceTime(stopwatch, None).span(1, []):
        pass
    assert stopwatch.monitoring == 0.0
