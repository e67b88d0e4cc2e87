"""Runs jobs one after the other on a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import torch

T = TypeVar("T")
Job = Callable[[], object]


class Worker:
    """Runs jobs on one background thread, in order; an error in a job does not affect later jobs.

    On CUDA the thread uses the current device of the caller that submits the first job. Otherwise a new thread uses
    device 0, where a call may create a context of hundreds of MB. The thread is a daemon and not from
    concurrent.futures. Those executors accept no jobs during interpreter exit, when an unclosed run still has to be
    written and judged.

    Args:
        name: name of the thread.
        on_error: receives the error of a job, on the thread.
        most: maximum number of pending jobs before `submit` blocks; 0 for no limit.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], None], *, most: int = 0) -> None:
        self._name, self._on_error, self._max_pending = name, on_error, most
        self._idle = threading.Condition()
        self._jobs: queue.SimpleQueue[Job | None] | None = None  # None while there is no thread
        self._thread: threading.Thread | None = None
        self.pending = 0
        """Number of jobs that are not finished."""

    def submit(self, job: Job) -> None:
        """Queues a job; the first job starts the thread."""
        with self._idle:
            self._idle.wait_for(lambda: not self._max_pending or self.pending < self._max_pending)
            self.pending += 1
            if self._jobs is None:
                self._jobs = queue.SimpleQueue()
                arguments = self._jobs, _current_device()
                self._thread = threading.Thread(target=self._work, args=arguments, name=self._name, daemon=True)
                self._thread.start()
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
        with self._idle:
            return self._idle.wait_for(lambda: self.pending == 0, timeout=seconds)

    def close(self, seconds: float = 0.0) -> None:
        """Ends the thread after all queued jobs; waits at most `seconds` for that. A later job starts a new thread."""
        with self._idle:
            if self._jobs is not None:
                self._jobs.put(None)
                self._jobs = None
        if self._thread is not None and seconds > 0:
            self._thread.join(seconds)

    def _work(self, jobs: queue.SimpleQueue[Job | None], device: int | None) -> None:
        if device is not None:
            torch.cuda.set_device(device)
        while (job := jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                self._on_error(error)
            del job  # it may hold tensors
            with self._idle:
                self.pending -= 1
                self._idle.notify_all()


def _current_device() -> int | None:
    """Returns the thread's CUDA device; None if CUDA is not in use, or for device 0, the default of every thread."""
    return torch.cuda.current_device() or None if torch.cuda.is_initialized() else None
