"""Tests throughput, input share and memory."""

from __future__ import annotations

import psutil
import pytest

from tbx_callbacks.metrics.context import Interval, RunInfo
from tbx_callbacks.metrics.performance import InputShare, Memory, Throughput
from tests.helpers.contexts import context, finished


def test_throughput_of_interval_exact() -> None:
    interval = Interval(steps=4, seconds=2.0, monitoring=0.1, samples=32, tokens=100.0)
    assert finished(Throughput()(context(interval=interval))) == pytest.approx(
        {
            "perf/step_s": 0.5,
            "perf/steps_per_s": 2.0,
            "perf/samples_per_s": 16.0,
            "perf/tokens_per_s": 50.0,
            "perf/monitor_share": 0.05,
        }
    )


def test_throughput_unknown_samples_and_tokens_left_out() -> None:
    values = finished(Throughput()(context(interval=Interval(steps=1, seconds=1.0))))
    assert set(values) == {"perf/step_s", "perf/steps_per_s", "perf/monitor_share"}
    assert Throughput()(context(interval=Interval())) == {}


def test_input_share_of_interval_exact() -> None:
    assert finished(InputShare()(context(interval=Interval(seconds=4.0, waiting=1.0)))) == {"perf/input_share": 0.25}
    assert InputShare()(context(interval=Interval(seconds=4.0))) == {}


def test_memory_of_process_written_in_gib() -> None:
    values = finished(Memory()(context()))
    assert values["memory/rss_gib"] == pytest.approx(psutil.Process().memory_info().rss / 2**30, rel=0.2)
    assert "memory/largest_rank" not in values
    assert finished(Memory()(context(run=RunInfo(rank=3))))["memory/largest_rank"] == 3
