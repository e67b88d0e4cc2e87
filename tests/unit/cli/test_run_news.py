"""Tests what is news in a growing run: findings, the end, a crash, a stall."""

from __future__ import annotations

from typing import Any

import numpy as np

from tbx_callbacks._notify.message import Message
from tbx_callbacks.cli.run_news import RunNews
from tbx_callbacks.rules import Diagnosis, Finding
from tbx_callbacks.rules.diagnose import DiagnosedRun, diagnose
from tbx_callbacks.runs.series import Run, Series

START = 1_764_400_000.0


def diagnosed(points: int, *findings: Finding, gap: float = 100.0, **fields: Any) -> DiagnosedRun:
    steps = np.arange(1, points + 1)
    run = Run({"train/loss": Series(steps, np.ones(points), START + gap * steps)}, **fields)
    return DiagnosedRun("a", "runs/a", run, Diagnosis(findings, (), diagnose(run, {}).verdict))


def finding(severity: Any, name: str = "divergence") -> Finding:
    return Finding(name, severity, ("train/loss",), (3,), "It diverges.", "Lower the rate.", "", code="TBX-DIV-001")


def events(messages: list[Message]) -> list[str]:
    return [message.event for message in messages]


def test_watched_run_finding_sent_once_and_when_worse() -> None:
    run = RunNews(is_old=False)
    assert events(run.look(diagnosed(3, finding("warning"), finding("note", "other")), START + 300)) == ["warning"]
    assert run.look(diagnosed(4, finding("warning")), START + 400) == []
    (message,) = run.look(diagnosed(5, finding("error"), finding("warning")), START + 500)
    assert (message.event, message.run, message.step, message.code) == ("error", "runs/a", 5, "TBX-DIV-001")
    assert message.text == "It diverges. Lower the rate."


def test_watched_run_old_contents_are_no_news() -> None:
    run = RunNews(is_old=True)
    assert run.look(diagnosed(5, finding("error"), status="failed"), START + 9000) == []
    assert run.look_at_clock(START + 99000) == []
    resumed = diagnosed(6, finding("error"))
    assert run.look(resumed, START + 600) == []
    assert events(run.look(diagnosed(7, status="failed"), START + 700)) == ["crash"]


def test_watched_run_end_and_crash_told_once() -> None:
    run = RunNews(is_old=True)
    run.look(diagnosed(5), START + 500)
    assert events(run.look(diagnosed(6, status="succeeded"), START + 600)) == ["end"]
    assert run.look(diagnosed(6, status="succeeded"), START + 700) == []
    assert run.look_at_clock(START + 99000) == []  # what has ended does not stall


def test_watched_run_with_clock_behind_grows() -> None:
    run = RunNews(is_old=True)
    run.look(diagnosed(50, gap=10.0), START + 500)
    before = diagnosed(50, gap=10.0).run.scalars["train/loss"]
    for later in range(1, 100):
        steps = np.arange(1, 51 + later)
        times = np.append(before.wall_times, START - 3600 + 10.0 * np.arange(later))
        grown = Run({"train/loss": Series(steps, np.ones(len(steps)), times)})
        now = START + 500 + 10 * later
        news = run.look(DiagnosedRun("a", "runs/a", grown, Diagnosis((), (), diagnose(grown, {}).verdict)), now)
        assert events([*news, *run.look_at_clock(now)]) == []
    assert events(run.look_at_clock(now + 400)) == ["stall"]


def test_watched_run_stall_from_earlier_waits() -> None:
    run = RunNews(is_old=True)
    run.look(diagnosed(5), START + 510)
    assert run.look_at_clock(START + 800) == []  # the waits were 100 s
    (message,) = run.look_at_clock(START + 801)
    assert (message.event, message.step, message.text) == ("stall", 5, "no new point has been logged for 5 min")
    assert run.look_at_clock(START + 9000) == []
    assert run.look(diagnosed(6), START + 9000) == []


def test_watched_run_that_stood_still_is_old_news() -> None:
    run = RunNews(is_old=True)
    assert run.look(diagnosed(5), START + 99000) == []
    assert run.look_at_clock(START + 199000) == []


def test_watched_run_without_wall_times_learns_waits() -> None:
    def look(points: int, now: float) -> list[Message]:
        return run.look(diagnosed(points, gap=float("nan")), now)

    run = RunNews(is_old=True)
    for points in range(1, 5):
        assert look(points, START + 100 * points) == []
    assert run.look_at_clock(START + 700) == []
    assert events(run.look_at_clock(START + 701)) == ["stall"]


def test_watched_run_early_hang_is_stall() -> None:
    run = RunNews(is_old=False)
    run.look(diagnosed(3, gap=1.0), START + 4)  # all that it ever logs, seen at once
    assert run.look_at_clock(START + 303) == []
    assert events(run.look_at_clock(START + 304)) == ["stall"]


def test_watched_run_of_one_point_stalls_late() -> None:
    run = RunNews(is_old=False)
    run.look(diagnosed(1, gap=1.0), START + 4)
    assert run.look_at_clock(START + 1801) == []
    assert events(run.look_at_clock(START + 1802)) == ["stall"]


def test_watched_run_tags_of_step_measure_nothing() -> None:
    steps = np.array([1])
    scalars = {f"tag_{index}": Series(steps, np.ones(1), START + np.array([0.001 * index])) for index in range(9)}
    run, found = Run(scalars), RunNews(is_old=False)
    found.look(DiagnosedRun("a", "runs/a", run, Diagnosis((), (), diagnose(run, {}).verdict)), START + 1)
    assert found.look_at_clock(START + 1800) == []
