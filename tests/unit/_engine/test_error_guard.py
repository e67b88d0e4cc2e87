"""Tests that errors of monitoring code stay inside the guard, and that its time is charged to metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tbx_callbacks._engine.cost import Cost
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.error_guard import Guard
from tests.helpers.fake_clock import Clock


def runs(number: int) -> list[Any]:
    return [SimpleNamespace(cost=Cost()) for _ in range(number)]


def test_guard_error_logged_once_per_work(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(strict=False, stopwatch=Stopwatch(Clock()))
    for step in (1, 2):
        for what in ("measuring", "publishing"):
            with guard(what, step, runs(1)):
                raise ValueError("no")
    assert caplog.messages == [
        f"{what} failed at step 1; the affected values are not written: ValueError('no')"
        for what in ("measuring", "publishing")
    ]


def test_guard_strict_raises_error() -> None:
    with pytest.raises(ValueError, match="no"), Guard(strict=True, stopwatch=Stopwatch(Clock()))("measuring", 1):
        raise ValueError("no")


def test_guard_time_charged_to_metrics_that_need_it() -> None:
    clock = Clock()
    stopwatch = Stopwatch(clock)
    guard, (one, two, other) = Guard(strict=False, stopwatch=stopwatch), runs(3)
    with guard("measuring", 1, [one, two]):
        clock.now += 2.0  # for both
        with guard.charged(1, [two]):
            clock.now += 3.0
        one.cost.add(0.5, 1)
        clock.now += 0.5  # what one charged itself
    with guard("publishing", 1):
        clock.now += 7.0
    assert (one.cost.total, two.cost.total, other.cost.total) == pytest.approx((1.5, 4.0, 0.0))
    assert one.cost.runs == two.cost.runs == 1
    assert stopwatch.monitoring == pytest.approx(12.5)


def test_guard_time_charged_although_work_raised() -> None:
    clock = Clock()
    guard, (one,) = Guard(strict=False, stopwatch=Stopwatch(clock)), runs(1)
    with guard("measuring", 1, [one]):
        clock.now += 2.0
        raise ValueError("no")
    assert one.cost.total == pytest.approx(2.0)


def test_guard_without_metrics_keeps_grad_mode() -> None:
    guard = Guard(strict=True, stopwatch=Stopwatch(Clock()))
    with guard("measuring", 1, runs(1)):
        assert not torch.is_grad_enabled()
    with guard("reading", 1):
        assert torch.is_grad_enabled()
