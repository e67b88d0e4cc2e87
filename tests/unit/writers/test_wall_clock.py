"""Tests the times of events while the system's clock is set forward and back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from tbx_callbacks.writers.summary_writer import SummaryWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tbx_callbacks.writers.wall_clock import WallClock
from tests.helpers.runs import files


class Clocks:
    """The clocks of a machine whose wall time can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.monotonic = 1_000_000.0, 50.0
        monkeypatch.setattr("tbx_callbacks.writers.wall_clock.time.time", lambda: self.wall)
        monkeypatch.setattr("tbx_callbacks.writers.wall_clock.time.monotonic", lambda: self.monotonic)

    def pass_seconds(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_wall_clock_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    clock = WallClock()
    assert clock.now() == 1_000_000
    clocks.pass_seconds(10)
    assert clock.now() == 1_000_010
    clocks.wall -= 3600
    assert clock.now() == 1_000_010
    clocks.pass_seconds(5)
    assert clock.now() == 1_000_015
    clocks.wall += 7200
    assert clock.now() == clocks.wall


def test_event_times_after_clock_set_back_ascend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TensorBoardWriter(tmp_path)
    now = time.time
    for step in range(1, 9):
        writer.write(step, {"a": float(step)})
        writer.summary_writer.add_scalar("b", float(step), step)
        writer.flush()
        monkeypatch.setattr(time, "time", lambda step=step: now() - 1000 * step)
    writer.close()
    writer.write(9, {"a": 9.0})
    writer.close()
    events = [event for path in files(tmp_path) for event in LegacyEventFileLoader(str(path)).Load()]
    times = [event.wall_time for event in events if not event.file_version]
    assert len(times) == 17
    assert times == sorted(times)
    assert times[-1] - times[0] < 900


def test_given_event_time_is_kept(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("a", 1.0, 1, walltime=123.0)
        with writer.use_metadata(walltime=456.0):
            writer.add_scalar("a", 2.0, 2)
        with writer.use_metadata(global_step=3):
            writer.add_scalar("a", 3.0)
    (path,) = files(tmp_path)
    events = list(LegacyEventFileLoader(str(path)).Load())
    assert [event.wall_time for event in events[1:3]] == [123.0, 456.0]
    assert events[3].wall_time == pytest.approx(time.time(), abs=900)
    assert [event.step for event in events[1:]] == [1, 2, 3]
