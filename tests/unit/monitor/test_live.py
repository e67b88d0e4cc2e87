"""Tests the loop of the live view, without a terminal; tests/unit/cli/test_top.py drives it in tmux."""

from __future__ import annotations

import io
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbx_callbacks.cli.terminal import Terminal
from tbx_callbacks.monitor import live
from tbx_callbacks.monitor.live import follow
from tbx_callbacks.monitor.watched_runs import Snapshot, WatchedRuns
from tbx_callbacks.rules import default_rules
from tests.helpers.limits import limit
from tests.helpers.watched import add_lines


def shown(runs: WatchedRuns, *texts: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The output until each text has appeared; then the view is stopped."""
    monkeypatch.setattr("sys.stdin", io.StringIO())  # no keys
    file, stopped = io.StringIO(), threading.Event()
    console = Terminal(file=file, width=100, height=30, force_terminal=True, highlight=False)
    thread = threading.Thread(target=follow, args=(runs, console, stopped, 0.1))
    thread.start()
    deadline = time.monotonic() + limit(30)
    while not all(text in file.getvalue() for text in texts) and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped.set()
    thread.join(limit(10))
    assert not thread.is_alive()
    return file.getvalue()


def test_follow_shows_runs_restores_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_lines(tmp_path / "exp1" / "metrics.jsonl", range(1, 30), train__loss=0.125)
    before = set(threading.enumerate())
    text = shown(WatchedRuns(str(tmp_path), rules=default_rules()), "exp1", "0.125", monkeypatch=monkeypatch)
    assert "0.125" in text
    assert text.index("\x1b[?1049h") < text.index("exp1") < text.index("\x1b[?1049l")
    assert text.index("\x1b[?25l") < text.rindex("\x1b[?25h")  # the cursor
    assert set(threading.enumerate()) <= before


class Failing(WatchedRuns):
    """Warns, and fails."""

    def snapshots(self) -> Iterator[Snapshot]:
        warnings.warn("be\x1bware", UserWarning, stacklevel=1)
        raise RuntimeError("the disk is on fire")
        yield


def test_follow_survives_failing_reader_and_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: print(message, file=__import__("sys").stderr))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        text = shown(Failing(str(tmp_path), rules={}), "on fire", "be?ware", monkeypatch=monkeypatch)
    assert "Waiting for a run:" in text
    assert "RuntimeError('the disk is on fire')" in text
    assert "be?ware" in text


def test_follow_error_restores_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("no frame")

    monkeypatch.setattr(live, "Frame", broken)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    before, file = set(threading.enumerate()), io.StringIO()
    console = Terminal(file=file, width=100, height=30, force_terminal=True, highlight=False)
    with pytest.raises(RuntimeError, match="no frame"):
        follow(WatchedRuns(str(tmp_path), rules={}), console, threading.Event(), 0.1)
    assert file.getvalue().index("\x1b[?1049h") < file.getvalue().index("\x1b[?1049l")
    assert file.getvalue().index("\x1b[?25l") < file.getvalue().rindex("\x1b[?25h")
    assert set(threading.enumerate()) <= before
