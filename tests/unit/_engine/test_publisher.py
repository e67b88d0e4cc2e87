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

    queue = OrderedQueue()
    queue.run(lambda: job(1))
    assert done == [(1, True)]
    queue.run(waiting, waits=True)
    queue.run(lambda: job(3))
    assert len(done) == 1
    assert not queue.drain(0.01)
    go.set()
    assert queue.drain(10)
    queue.run(lambda: job(4))
    assert done == [(1, True), (2, False), (3, False), (4, True)]


def test_ordered_queue_failing_job_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    queue, done = OrderedQueue(), []
    queue.run(lambda: print(1 / 0), waits=True)
    queue.run(lambda: print(1 / 0), waits=True)
    queue.run(lambda: done.append(time.monotonic()), waits=True)
    assert queue.drain(10)
    assert len(done) == 1
    assert caplog.text.count("publishing failed; the step's values are not written: ZeroDivisionError") == 1
