"""Runs jobs one after the other on a background thread."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import torch

T = TypeVar("T")
Job = Callable[[], object]
Jobs = queue.SimpleQueue[Job | None]


class Worker:
    """Runs jobs on one background thread, in order; an error in a job does not affect later jobs.

    On CUDA the thread uses the current device of the caller that submits the first job. Otherwise a new thread uses
    device 0, where a call may create a context of hundreds of MB. The thread is a daemon and not from
    concurrent.futures. Those executors accept no jobs during interpreter exit, when an unclosed run still has to be
    written and judged.

    The thread ends with `close`, or when nothing refers to the worker any more; queued jobs are still run. A forked
    child has no such thread: its worker starts again without jobs.

    Args:
        name: name of the thread.
        on_error: receives the error of a job, on the thread.
        most: maximum number of pending jobs before `submit` blocks; 0 for no limit.
    """

    def __init__(self, name: str, on_error: Callable[[BaseException], None], *, most: int = 0) -> None:
        self._name, self._on_error, self._max_pending = name, on_error, most
        self._jobs: Jobs | None = None  # None while there is no thread
        self._thread: threading.Thread | None = None
        self._progress = _Progress()
        _workers.add(self)

    def __del__(self) -> None:
        # Not weakref.finalize: in a circle it would run first, and jobs of its owner's end would find no thread.
        if "_progress" in self.__dict__:
            self.close()

    @property
    def pending(self) -> int:
        """Number of jobs that are not finished."""
        return self._progress.pending

    def submit(self, job: Job) -> None:
        """Queues a job; the first job starts the thread."""
        progress = self._progress
        with progress.idle:
            progress.idle.wait_for(lambda: not self._max_pending or progress.pending < self._max_pending)
            if self._jobs is None:
                jobs: Jobs = queue.SimpleQueue()
                arguments = jobs, progress, weakref.ref(self), _current_device()
                thread = threading.Thread(target=_work, args=arguments, name=self._name, daemon=True)
                thread.start()
                self._jobs, self._thread = jobs, thread
            progress.pending += 1
            self._jobs.put(job)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Queues a function and returns a future of its result."""
        future: Future[T] = Future()

        def job() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.submit(job)
        return future

    def drain(self, seconds: float) -> bool:
        """Waits until all jobs are finished; returns whether they finished in time."""
        progress = self._progress
        with progress.idle:
            return progress.idle.wait_for(lambda: progress.pending == 0, timeout=seconds)

    def close(self, seconds: float = 0.0) -> None:
        """Ends the thread after all queued jobs, and waits for that; a later job starts a new thread.

        Args:
            seconds: longest time to wait.
        """
        with self._progress.idle:
            thread, self._thread = self._thread, None
            if self._jobs is not None:
                self._jobs.put(None)
            self._jobs = None
        if thread is not None and seconds > 0 and thread is not threading.current_thread():
            thread.join(seconds)

    def _after_fork(self) -> None:
        self._jobs = self._thread = None
        self._progress = _Progress()


class _Progress:
    """What the thread shares with its worker. It does not keep the worker alive."""

    def __init__(self) -> None:
        self.idle = threading.Condition()
        self.pending = 0


def _work(jobs: Jobs, progress: _Progress, owner: weakref.ref[Worker], device: int | None) -> None:
    if device is not None:
        torch.cuda.set_device(device)
    while (job := jobs.get()) is not None:
        try:
            job()
        except BaseException as error:  # not even sys.exit() ends the thread
            worker = owner()
            if worker is not None:
                worker._on_error(error)
            del worker
        del job  # it may hold tensors
        with progress.idle:
            progress.pending -= 1
            progress.idle.notify_all()


def _current_device() -> int | None:
    """Returns the thread's CUDA device; None if CUDA is not in use, or for device 0, the default of every thread."""
    return torch.cuda.current_device() or None if torch.cuda.is_initialized() else None


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


def _after_fork() -> None:
    for worker in list(_workers):
        worker._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
