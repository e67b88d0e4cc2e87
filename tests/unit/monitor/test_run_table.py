"""Tests the list of runs."""

from __future__ import annotations

import dataclasses
import math

from tbx_callbacks.monitor.pace import Pace
from tbx_callbacks.monitor.run_table import age, left, rate, state, table, verdict
from tbx_callbacks.monitor.watched_runs import WatchedRun
from tests.helpers.watched import START, series, training, watched, with_status


def test_table_shows_values_of_runs() -> None:
    heading, line = (line.plain for line in table([training()], 0, START + 100, 120, 5))
    assert " ".join(heading.split()) == "run verdict step loss eval steps/s left samples/s last point"
    assert " ".join(line.split()) == "> exp none found 40/200 0.1 0.15 12.5 1 min 30 s 100.0 1 min ago"


def test_table_scrolls_to_selected_run() -> None:
    runs = [training(f"run{n:02}", layers=0, points=2) for n in range(50)]
    lines = [line.plain for line in table(runs, 30, START, 80, 6)]
    assert [line.split()[0] for line in lines[1:]] == ["run28", "run29", ">", "run31", "run32"]
    assert "run49" in table(runs, 49, START, 80, 6)[-1].plain
    assert all(len(line) <= 80 for line in lines)


def test_table_error_in_its_row() -> None:
    broken = WatchedRun("broken", "/broken", problem="it is no log")
    lines = [line.plain for line in table([broken, training()], 1, START, 80, 5)]
    assert lines[1].split() == ["broken", "it", "is", "no", "log"]


def test_table_nan_shown() -> None:
    run = watched("nan", {"train/loss": series([1.0, math.nan])})
    assert " nan " in table([run], 0, START, 80, 3)[1].plain


def test_verdict_counts_worst_severity() -> None:
    assert verdict(watched("a", {"train/loss": series([1.0] * 30 + [math.nan])}))[0] == "1 error"
    assert verdict(watched("a", {"train/loss": series([1.0])}))[0] == "too little"
    assert verdict(WatchedRun("a", "a", problem="gone"))[0] == "unreadable"
    assert verdict(WatchedRun("a", "a"))[0] == ""


def test_age_rate_and_left_in_words() -> None:
    assert [age(seconds) for seconds in (-5, 59, 60, 7200, 200_000)] == [
        "0 s ago", "59 s ago", "1 min ago", "2 h ago", "2 d ago",
    ]  # fmt: skip
    assert [rate(value) for value in (None, 0.01234, 12.34, 123456.0)] == ["-", "0.0123", "12.3", "1.23e+05"]
    run = training()
    paces = [Pace(5, 5), Pace(5, 9), Pace(5, 9, left_s=1e9), Pace(5, 9, left_s=3700)]
    assert [left(dataclasses.replace(run, pace=pace)) for pace in paces] == ["done", "-", "> 100 d", "1 h 01 min"]


def test_verdict_of_note_is_no_clean_bill() -> None:
    values = [*(2.0 - 0.1 * n for n in range(10)), *[1.0] * 60]
    assert verdict(watched("a", {"train/loss": series(values)})) == ("1 note", "dim")


def test_state_tells_finished_failed_and_silent() -> None:
    run = training()
    assert state(run, START + 100) == ("", "")
    assert state(run, START + 10_000)[0] == "silent"
    words = [state(with_status(run, status), START + 10_000)[0] for status in ("succeeded", "failed")]
    assert words == ["ended", "failed"]
    assert "failed" in table([with_status(run, "failed")], 0, START, 80, 3)[1].plain


def test_state_slow_log_is_not_silent() -> None:
    slow = watched("slow", {"train/loss": series([1.0, 0.9, 0.8], seconds=1000.0)})
    assert [state(slow, START + 2000 + wait)[0] for wait in (2900, 3100)] == ["", "silent"]


def test_state_first_point_gives_half_an_hour() -> None:
    single = watched("single", {"train/loss": series([1.0])})
    assert [state(single, START + wait)[0] for wait in (1700, 1900)] == ["", "silent"]


def test_verdict_of_failed_run_is_not_green() -> None:
    run = training()
    assert verdict(run)[1] == "green"
    assert verdict(with_status(run, "failed"))[1] == "dim"
