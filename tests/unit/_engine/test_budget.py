"""Tests the overhead budget on a clock that only a slow metric and the training move."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch import nn

from tbx_callbacks._config.cadence import Cadence
from tbx_callbacks._config.metric_spec import MetricSpec
from tbx_callbacks._config.schedule import EveryEpochs, PerDecade, Schedule, at, either, every, never
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.writers.base import MemoryWriter
from tests.helpers.fake_clock import Clock, SlowMetric

EVERY_10 = every(10)


def train(
    budget: float | None, steps: int = 400, log: Schedule = EVERY_10, **costs: tuple[Cadence, float]
) -> tuple[MemoryWriter, float]:
    """Trains with one second a step; returns the writer, and the share of overhead in the second half."""
    clock, writer = Clock(), MemoryWriter()
    items = [MetricSpec(name, SlowMetric(name, seconds, clock), every=n) for name, (n, seconds) in costs.items()]
    engine = Engine(items, every="log", strict=True, writer=writer, stopwatch=Stopwatch(clock), budget=budget)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine.start(TrainingInfo(model, {"SGD": optimizer}, log_schedule=log, steps_per_epoch=5))
    for step in range(1, steps + 1):
        if step == steps // 2 + 1:
            middle = clock.now, engine.stopwatch.monitoring
        engine.begin_step(step)
        clock.now += 1.0
        optimizer.step()
        engine.flush_step()
        engine.poll_actions(step)
    seconds, spent = clock.now - middle[0], engine.stopwatch.monitoring - middle[1]
    engine.end(steps, succeeded=True)
    return writer, spent / seconds


def steps_of(writer: MemoryWriter, tag: str) -> list[int]:
    return [step for step, _ in writer.series(tag)]


def test_budget_costly_metric_stretched_cheap_one_kept(caplog: pytest.LogCaptureFixture) -> None:
    writer, share = train(0.01, slow=(5, 0.5), cheap=(5, 1e-5))
    assert share <= 0.01
    assert steps_of(writer, "cheap/ranks") == list(range(5, 401, 5))
    slow = steps_of(writer, "slow/ranks")
    assert slow[:3] == [5, 10, 15]
    periods = {b - a for a, b in itertools.pairwise(slow[4:])}
    assert periods == {50}  # 0.5 s in 50 s of steps: as often as the budget allows
    ((step, text),) = writer.series("overhead_budget")
    assert step == 15
    assert isinstance(text, Text)
    assert "the budget is 1.00%" in text.markdown
    assert "slow: every 5 steps -> every 50 steps" in text.markdown
    assert "cheap" not in text.markdown
    assert caplog.text.count("monitoring took") == 1


def test_budget_epochs_stretched_points_kept(caplog: pytest.LogCaptureFixture) -> None:
    points = at(*range(5, 401, 5))
    writer, share = train(0.01, slow=(EveryEpochs(1), 0.5), cheap=(PerDecade(4), 1e-5), fixed=(points, 1e-5))
    assert share <= 0.01
    assert "every epoch -> every 10 epochs for slow" in caplog.text
    slow = steps_of(writer, "slow/ranks")
    assert slow[:3] == [5, 10, 15]
    assert {b - a for a, b in itertools.pairwise(slow[4:])} == {50}
    assert steps_of(writer, "cheap/ranks") == [1, 2, 3, 6, 10, 18, 32, 56, 100, 178, 316]
    assert steps_of(writer, "fixed/ranks") == list(range(5, 401, 5))


@pytest.mark.parametrize("log", [every(500), never, either(at(1), every(500)), at(1, 400)], ids=str)
def test_budget_rare_metric_does_not_delay_stretching(log: Schedule) -> None:
    writer, share = train(0.01, log=log, slow=(2, 0.5), rare=("log", 1e-5))
    assert 0.005 < share <= 0.01
    (step,) = steps_of(writer, "overhead_budget")
    assert step in (6, 18)  # a metric that never runs again is not waited for, a rare one for a while
    slow = steps_of(writer, "slow/ranks")
    assert slow[: step // 2] == list(range(2, step + 1, 2))
    assert {b - a for a, b in itertools.pairwise(slow[step // 2 + 1 :])} == {50}


def test_budget_near_cadences_stretched_together() -> None:
    writer, _ = train(0.01, slow=(5, 0.5), rarer=(15, 0.5))
    ((step, text),) = writer.series("overhead_budget")
    assert step == 45
    assert isinstance(text, Text)
    assert "slow" in text.markdown
    assert "rarer" in text.markdown


def test_budget_rare_costly_metric_stretched_later() -> None:
    writer, share = train(0.01, steps=20_000, slow=(2, 0.5), rare=(200, 10.0))
    assert 0.005 < share <= 0.0125
    (first, early), (second, late) = writer.series("overhead_budget")
    assert (first, second) == (18, 600)
    assert isinstance(early, Text)
    assert isinstance(late, Text)
    assert "rare" not in early.markdown
    assert "rare: every 200 steps -> every" in late.markdown
    assert steps_of(writer, "rare/ranks")[:3] == [200, 400, 600]


def test_budget_log_names_changes_text_names_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer, _ = train(0.01, steps=5000, slow=(2, 0.5), small=(2, 0.002), rare=(200, 10.0))
    first, second = [record.getMessage() for record in caplog.records if "monitoring took" in record.getMessage()]
    assert first.endswith("longer intervals: every 2 steps -> every 50 steps for slow, small")
    assert second.endswith("every 50 steps -> every 300 steps for slow; every 200 steps -> every 1200 steps for rare")
    assert "small" not in second
    _, (_, text) = writer.series("overhead_budget")
    assert isinstance(text, Text)
    assert text.markdown.splitlines()[2:] == [
        "- slow: every 2 steps -> every 300 steps",
        "- small: every 2 steps -> every 50 steps",
        "- rare: every 200 steps -> every 1200 steps",
    ]


def test_budget_equal_changes_logged_together(caplog: pytest.LogCaptureFixture) -> None:
    train(0.01, **{f"slow{n}": (5, 0.1) for n in range(16)})
    (line,) = [record.getMessage() for record in caplog.records if "monitoring took" in record.getMessage()]
    assert re.search(r": every 5 steps -> every \d+ steps for slow0, slow1, slow2 and 13 more$", line)
    assert len(line.split()) < 35


def test_budget_stretched_metric_not_stretched_again() -> None:
    # Stretched at 39, it runs at 52, 104 and 156: as often as one in 39 steps, three in 117.
    writer, share = train(0.01, slow=(13, 0.5))
    assert share <= 0.01
    assert {b - a for a, b in itertools.pairwise(steps_of(writer, "slow/ranks")[3:])} == {52}
    assert len(writer.series("overhead_budget")) == 1


def test_budget_many_cheap_metrics_stretched() -> None:
    names = [f"cheap_{n}" for n in range(30)]
    writer, share = train(0.01, **{name: (5, 0.0024) for name in names})  # each of them 4.8 % of the budget
    assert share <= 0.01
    assert all(len(steps_of(writer, f"{name}/ranks")) < 60 for name in names)


def test_budget_not_exceeded_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    writer, share = train(0.5, slow=(5, 0.5))
    assert share == pytest.approx(0.5 / 5.5)
    assert steps_of(writer, "slow/ranks") == list(range(5, 401, 5))
    assert "monitoring took" not in caplog.text


def test_budget_none_changes_nothing() -> None:
    writer, _ = train(None, slow=(1, 3.0))
    assert steps_of(writer, "slow/ranks") == list(range(1, 401))


def test_budget_two_costly_metrics_share_budget() -> None:
    writer, share = train(0.05, steps=1000, a=(10, 1.0), b=(5, 0.25))
    assert 0.02 < share <= 0.05
    assert len(steps_of(writer, "a/ranks")) < 60
    assert len(steps_of(writer, "b/ranks")) < 120
