"""The time of a device that is behind the thread, with a clock and events that stand for it."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks.counters import Stopwatch
from tbx_callbacks.device_time import DeviceTime, events_of


class Device:
    """Passes an event when it is told to, at its own time."""

    def __init__(self) -> None:
        self.marks: list[Event] = []

    def event(self) -> Event:
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self.device, self.at = device, float("nan")

    def record(self) -> None:
        self.device.marks.append(self)

    def query(self) -> bool:
        return self.at == self.at

    def elapsed_time(self, other: Event) -> float:
        assert self.query()
        assert other.query(), "an event was read that the device has not passed"
        return 1000 * (other.at - self.at)


def test_what_the_device_takes_beyond_the_thread_is_added_when_it_is_known() -> None:
    device, now = Device(), [0.0]
    stopwatch = Stopwatch(lambda: now[0])
    timed = DeviceTime(stopwatch, device.event)

    def span(thread: float) -> None:
        with timed.span():
            now[0] += thread

    def passes(*times: float) -> None:
        for mark, at in zip(device.marks, times, strict=False):
            mark.at = at

    span(0.5)
    span(0.1)
    assert stopwatch.monitoring == 0.0  # the device has done nothing yet
    passes(10.0, 12.0)
    span(0.1)
    assert stopwatch.monitoring == pytest.approx(1.5)
    passes(10.0, 12.0, 12.0, 12.05)  # the second took the thread longer than the device
    span(0.1)
    assert stopwatch.monitoring == pytest.approx(1.5)
    with pytest.raises(ZeroDivisionError), timed.span():
        _ = 1 / 0
    assert len(device.marks) == 10


def test_where_the_thread_waits_there_is_nothing_to_add() -> None:
    assert events_of(torch.device("cpu")) is None
    stopwatch = Stopwatch()
    with DeviceTime(stopwatch, None).span():
        pass
    assert stopwatch.monitoring == 0.0
