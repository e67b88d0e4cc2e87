"""Tests when a missing step is a stall."""

from __future__ import annotations

import threading

from tbx_callbacks._notify.stall import StallClock, Watchdog


def looks(clock: StallClock, *points: tuple[int, float]) -> list[float | None]:
    return [clock.look(step, seconds) for step, seconds in points]


def test_stall_clock_tells_after_three_times_usual() -> None:
    clock = StallClock(floor=60.0)
    assert looks(clock, (0, 0), (1, 500), (2, 600), (3, 700), (3, 1000)) == [None] * 5
    assert looks(clock, (3, 1001), (3, 2000)) == [301, None]  # once
    assert looks(clock, (4, 2100), (4, 6299), (4, 6301)) == [None, None, 4201]  # the stall of 1,400 s counts now


def test_stall_clock_short_waits_have_floor() -> None:
    clock = StallClock(floor=60.0)
    assert looks(clock, (1, 0), (2, 1), (3, 2), (3, 62), (3, 63)) == [None, None, None, None, 61]


def test_stall_clock_start_is_no_measure() -> None:
    clock = StallClock(floor=60.0)
    assert looks(clock, (0, 0), (0, 5000), (1, 6000), (1, 20000)) == [None] * 4
    assert looks(clock, (2, 20001), (2, 70000)) == [None, 49999]


def test_stall_clock_without_measure_uses_floor() -> None:
    clock = StallClock(floor=1800.0, unmeasured=1800.0)
    assert looks(clock, (0, 0), (0, 1800), (0, 1801), (0, 9000)) == [None, None, 1801, None]


def test_stall_clock_several_steps_measure_one_wait() -> None:
    clock = StallClock(floor=60.0)
    assert looks(clock, (0, 0), (31, 5), (31, 65), (31, 66)) == [None, None, None, 61]


def test_stall_clock_first_step_alone_measures_nothing() -> None:
    clock = StallClock(floor=60.0)
    assert looks(clock, (0, 0), (1, 5), (1, 9000)) == [None] * 3


def test_stall_clock_start_leaves_measured_wait_short() -> None:
    clock = StallClock(floor=60.0)
    assert looks(clock, (0, 0), (0, 500), (3, 505), (3, 566)) == [None, None, None, 61]


def test_stall_clock_forgets_old_waits() -> None:
    clock = StallClock(floor=60.0, recent=2)
    assert looks(clock, (1, 0), (2, 1), (3, 1001), (4, 1002), (5, 1003), (5, 1064)) == [None] * 5 + [61]


def test_stall_clock_time_that_falls_is_no_stall() -> None:
    clock = StallClock(floor=60.0)
    assert looks(clock, (1, 100), (2, 101), (3, 102), (3, 50), (3, 150)) == [None] * 5


def test_watchdog_looks_until_told() -> None:
    looked, done = list[int](), threading.Event()

    def look() -> bool:
        looked.append(1)
        if len(looked) == 3:
            done.set()
        return len(looked) < 3

    watchdog = Watchdog(look, 0.001)
    assert done.wait(60.0)
    watchdog.stop()
    assert len(looked) == 3


def test_watchdog_stopped_looks_no_more() -> None:
    looked: list[int] = []
    watchdog = Watchdog(lambda: not looked.append(1), 3600.0)  # type: ignore[func-returns-value]
    watchdog.stop()
    assert looked == []
