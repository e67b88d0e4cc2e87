"""The time of a device that is behind the thread, with a clock and events that stand for it."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks._engine.cost import Cost, DeviceTime, marks_of
from tbx_callbacks._engine.counters import Stopwatch


class Device:
    """Passes an event when it is told to, at its own time."""

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


def test_what_the_device_takes_beyond_the_thread_is_added_when_it_is_known() -> None:
    device, now = Device(), [0.0]
    stopwatch = Stopwatch(lambda: now[0])
    timed = DeviceTime(stopwatch, device.mark)

    def span(thread: float) -> None:
        with timed.span(1, []):
            now[0] += thread

    span(0.5)
    span(0.1)
    assert stopwatch.monitoring == 0.0  # the device has done nothing yet
    device.passes(10.0, 12.0)
    span(0.1)
    assert stopwatch.monitoring == pytest.approx(1.5)
    device.passes(10.0, 12.0, 12.0, 12.05)  # the second took the thread longer than the device
    span(0.1)
    assert stopwatch.monitoring == pytest.approx(1.5)
    with pytest.raises(ZeroDivisionError), timed.span(1, []):
        _ = 1 / 0
    assert len(device.marks) == 10


def test_those_that_the_work_was_done_for_pay_as_much_as_they_cost_the_thread() -> None:
    device, now = Device(), [0.0]
    timed = DeviceTime(Stopwatch(lambda: now[0]), device.mark)
    one, two, other = Cost(), Cost(), Cost()
    for step in (10, 20):
        with timed.span(step, [one, two, other]):
            one.add(3.0, step)
            two.add(1.0, step)
            now[0] += 4.0
    with timed.span(20, [other]):  # nobody has said what it took
        pass
    device.passes(0.0, 12.0, 20.0, 28.0, 28.0, 29.0)
    with timed.span(30, []):
        pass
    assert [cost.total for cost in (one, two, other)] == pytest.approx([6 + 9, 2 + 3, 1])
    assert one.per_step == pytest.approx(0.6)  # the first run's 6 are left out


def test_the_stream_is_that_of_the_models_device(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[str] = []

    class Recorder:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            recorded.append(stream)

    monkeypatch.setattr(torch.cuda, "Event", Recorder)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    mark = marks_of(torch.device("cuda:1"))
    assert mark is not None
    mark()
    assert recorded == ["stream of cuda:1"]


def test_where_the_thread_waits_there_is_nothing_to_add() -> None:
    assert marks_of(torch.device("cpu")) is None
    stopwatch = Stopwatch()
    with DeviceTime(stopwatch, None).span(1, []):
        pass
    assert stopwatch.monitoring == 0.0
