"""Tests what keys change."""

from __future__ import annotations

import dataclasses

import pytest

from tbx_callbacks.monitor.pace import Pace
from tbx_callbacks.monitor.view import KEYS, View
from tests.helpers.watched import training

RUNS = [training(name) for name in "abc"]


@pytest.mark.parametrize(
    ("key", "start", "end"),
    [("j", 0, 1), ("down", 2, 0), ("tab", 1, 2), ("k", 0, 2), ("up", 1, 0), ("shift-tab", 2, 1), ("G", 0, 2)],
)
def test_view_keys_change_run(key: str, start: int, end: int) -> None:
    view = View(RUNS[start].folder).press(key, RUNS)
    assert view.selected(RUNS) == end
    assert key in ", ".join(KEYS)


def test_view_selects_run_that_changed_last() -> None:
    remote, local, unknown = RUNS
    runs = [
        dataclasses.replace(remote, pace=Pace(last_time=5.0)),
        dataclasses.replace(local, changed=9.0),
        dataclasses.replace(unknown, pace=Pace()),
    ]
    assert View().selected(runs) == 1
    assert View("/gone").selected(runs) == 1
    assert View(runs[2].folder).selected(runs[1:]) == 1  # it stays selected when runs come and go
    assert View().selected([]) is None


def test_view_pinned_stays_at_its_run() -> None:
    first, second = (
        dataclasses.replace(run, pace=Pace(last_time=time)) for run, time in zip(RUNS, (9.0, 5.0), strict=False)
    )
    later = dataclasses.replace(second, pace=Pace(last_time=20.0))
    assert View().selected([first, later]) == 1
    assert View().pinned([first, second]).selected([first, later]) == 0
    assert View().pinned([]) == View()


def test_view_f_changes_family() -> None:
    view = View().press("f", RUNS)
    assert view.family == "update_ratio"
    assert view.press("f", RUNS).family == "grad_norm"
    assert view.press("F", RUNS).family == "grad_norm"
    assert View().shown_family({}) is None


def test_view_help_closes_with_any_key() -> None:
    for key in "h?":
        view = View().press(key, RUNS)
        assert view.is_help
        assert view.press("j", RUNS) == View()


@pytest.mark.parametrize("key", ["x", "", "\x1b", "j", "f", "g"])
def test_view_without_runs_unchanged(key: str) -> None:
    assert View().press(key, []) == View()
