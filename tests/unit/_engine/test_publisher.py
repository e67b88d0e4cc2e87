"""Tests that the queue publishes steps in order."""

from __future__ import annotations

import threading
import time

import pytest

from tbx_callbacks._engine.publisher import OrderedQueue


def test_ordered_queue_runs_behind_waiting_job() -> None:
    done: list[tuple[int, bool]] = []
    go, main = threading.Event(), threading.current_thread()

    def job(number: int) -> None:
        done.append((number, threading.current_thread() is main))

    def waiting() -> None:
        go.wait(10)
        job(2)

    behind = OrderedQueue()
    behind.run(lambda: job(1))
    assert done == [(1, True)]
    behind.run(waiting, waits=True)
    behind.run(lambda: job(3))
    assert len(done) == 1
    assert not behind.drain(0.01)
    go.set()
    assert behind.drain(10)
    behind.run(lambda: job(4))
    assert done == [(1, True), (2, False), (3, False), (4, True)]


def test_ordered_queue_failing_job_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    behind, done = OrderedQueue(), []
    behind.run(lambda: print(1 / 0), waits=True)
    behind.run(lambda: print(1 / 0), waits=True)
    behind.run(lambda: done.append(time.monotonic()), waits=True)
    assert behind.drain(10)
    assert len(done) == 1
    assert caplog.text.count("publishing failed; the step's values are not written: ZeroDivisionError") == 1
