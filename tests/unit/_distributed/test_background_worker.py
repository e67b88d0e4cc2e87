"""Tests the worker thread: its CUDA device, and its end."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest
import torch

from tbx_callbacks._distributed.background_worker import Worker


def test_worker_thread_has_device_of_starter(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def set_device(device: int) -> None:
        calls.append((threading.current_thread().name, device))

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    for name, started in (("without", False), ("with", True)):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda started=started: started)
        jobs = Worker(name, print)
        jobs.submit(lambda: None)
        assert jobs.drain(10)
        jobs.close()
    assert calls == [("with", 5)]


def test_worker_dropped_runs_queued_jobs_and_ends() -> None:
    done: list[int] = []
    gate = threading.Event()
    jobs = Worker("dropped", print)
    jobs.submit(gate.wait)
    for number in range(3):
        jobs.submit(lambda number=number: done.append(number))
    thread = next(thread for thread in threading.enumerate() if thread.name == "dropped")
    del jobs
    gc.collect()
    gate.set()
    thread.join(30)
    assert (thread.is_alive(), done) == (False, [0, 1, 2])


def test_worker_error_handler_does_not_keep_owner() -> None:
    class Owner:
        def __init__(self) -> None:
            self.jobs = Worker("owned", self.on_error)
            self.errors: list[Exception] = []

        def on_error(self, error: Exception) -> None:
            self.errors.append(error)

    owner = Owner()
    owner.jobs.submit(lambda: 1 / 0)
    assert owner.jobs.drain(30)
    assert [str(error) for error in owner.errors] == ["division by zero"]
    thread = next(thread for thread in threading.enumerate() if thread.name == "owned")
    reference = weakref.ref(owner)
    del owner
    gc.collect()
    thread.join(30)
    assert (reference(), thread.is_alive()) == (None, False)


def test_worker_closed_starts_new_thread() -> None:
    done: list[str] = []
    jobs = Worker("again", print)
    for _ in range(2):
        jobs.submit(lambda: done.append(threading.current_thread().name))
        assert jobs.drain(30)
        jobs.close()
        jobs.close()
    assert (done, jobs.pending) == (["again", "again"], 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_forked_child_begins_without_jobs() -> None:
    gate, jobs = threading.Event(), Worker("forked", print, most=1)
    jobs.submit(gate.wait)
    child = os.fork()
    if child == 0:
        done: list[int] = []
        jobs.submit(lambda: done.append(1))  # would wait for ever for the parent's job
        os._exit(0 if jobs.drain(30) and done == [1] else 1)
    status = os.waitpid(child, 0)[1]
    gate.set()
    assert (os.waitstatus_to_exitcode(status), jobs.drain(30)) == (0, True)
    jobs.close()
