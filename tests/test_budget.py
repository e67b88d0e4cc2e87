"""The overhead budget, with a clock that only a slow metric and the training move."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from slow import Clock, Slow
from torch import nn

from tbx_callbacks import TbxLoop
from tbx_callbacks.counters import Stopwatch
from tbx_callbacks.facts import Setup
from tbx_callbacks.items import Item
from tbx_callbacks.monitor import Monitor
from tbx_callbacks.schedule import at, either, every, never, stretched
from tbx_callbacks.sinks import MemorySink
from tbx_callbacks.values import Text


def train(budget: float | None, steps: int = 400, **costs: tuple[int, float]) -> tuple[MemorySink, float]:
    """One second a step; returns what was written, and the share that measuring took in the second half."""
    clock, sink = Clock(), MemorySink()
    items = [Item(name, Slow(name, seconds, clock), every=n) for name, (n, seconds) in costs.items()]
    monitor = Monitor(items, every="log", strict=True, sink=sink, stopwatch=Stopwatch(clock), budget=budget)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor.start(Setup(model, {"SGD": optimizer}, log_schedule=every(10)))
    for step in range(1, steps + 1):
        if step == steps // 2 + 1:
            middle = clock.now, monitor.stopwatch.monitoring
        monitor.begin_step(step)
        clock.now += 1.0
        optimizer.step()
        monitor.publish()
        monitor.verdict(step)
    seconds, spent = clock.now - middle[0], monitor.stopwatch.monitoring - middle[1]
    monitor.end(steps, succeeded=True)
    return sink, spent / seconds


def steps_of(sink: MemorySink, tag: str) -> list[int]:
    return [step for step, _ in sink.series(tag)]


def test_a_costly_metric_is_measured_less_often_and_a_cheap_one_as_before(caplog: pytest.LogCaptureFixture) -> None:
    sink, share = train(0.01, slow=(5, 0.5), cheap=(5, 1e-5))
    assert share <= 0.01
    assert steps_of(sink, "cheap/ranks") == list(range(5, 401, 5))
    slow = steps_of(sink, "slow/ranks")
    assert slow[:3] == [5, 10, 15]
    periods = {b - a for a, b in itertools.pairwise(slow[4:])}
    assert periods == {50}  # 0.5 s in 50 s of steps: as often as the budget allows
    ((step, text),) = sink.series("overhead_budget")
    assert step == 15
    assert isinstance(text, Text)
    assert "the budget is 1.00%" in text.markdown
    assert "slow : every 5 steps -> every 50 steps" in text.markdown
    assert "cheap" not in text.markdown
    assert caplog.text.count("measuring took") == 1


def test_within_the_budget_nothing_changes(caplog: pytest.LogCaptureFixture) -> None:
    sink, share = train(0.5, slow=(5, 0.5))
    assert share == pytest.approx(0.5 / 5.5)
    assert steps_of(sink, "slow/ranks") == list(range(5, 401, 5))
    assert "measuring took" not in caplog.text


def test_without_a_budget_nothing_changes() -> None:
    sink, _ = train(None, slow=(1, 3.0))
    assert steps_of(sink, "slow/ranks") == list(range(1, 401))


def test_two_costly_metrics_share_the_room() -> None:
    sink, share = train(0.05, steps=1000, a=(10, 1.0), b=(5, 0.25))
    assert 0.02 < share <= 0.05
    assert len(steps_of(sink, "a/ranks")) < 60
    assert len(steps_of(sink, "b/ranks")) < 120


def test_metrics_that_share_a_pass_are_stretched_alike_and_histograms_pay_for_their_counting(tmp_path: Path) -> None:
    model = nn.Sequential(*[nn.Linear(300, 300) for _ in range(4)])
    optimizer = torch.optim.AdamW(model.parameters())
    config = {"extends": "full", "every": 2, "overhead_budget": 0.3, "metrics": [{"weight_histogram": {"every": 2}}]}
    with TbxLoop(model, optimizer, config, log_dir=tmp_path, log_every=2) as loop:
        for step in range(400):
            model(torch.randn(8, 300)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            loop.end_step()
            entries = loop._monitor._program.on_steps
            if step == 6:
                means = {entry.item.name: entry.mean for entry in entries}
                assert means["weight_histogram"] > 5 * means["learning_rate"]
    periods = {(entry.item.name, entry.item.select and entry.item.select.by): str(entry.schedule) for entry in entries}
    assert periods["learning_rate", None] == "every 2 steps"
    norms = [periods[name, by] for name in ("grad_norm", "weight_norm") for by in ("total", "layer", "parameter")]
    assert len(set(norms)) == 1
    assert norms[0] == periods["weight_histogram", "layer"] != "every 2 steps"


def test_stretching_keeps_single_steps() -> None:
    schedule = stretched(either(at(1), every(4), never), 3)
    assert [step for step in range(1, 30) if schedule(step)] == [1, 12, 24]
