"""A thread that does one job after the other."""

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
    """Does jobs on a thread of its own, in the order in which they come; an error ends none of those after it.

    On CUDA it has the current device of whoever gives it its first job: a new thread's is the first one, where a call
    may make a context of hundreds of MB. It is a daemon, and none of concurrent.futures': those take nothing more once
    the interpreter is about to end, when a run that nobody closed is still to be written and judged.

    Args:
        name: of the thread.
        failed: gets the error of a job, on the thread.
        most: jobs that may wait before `do` waits for them; no limit with 0.
    """

    def __init__(self, name: str, failed: Callable[[Exception], None], *, most: int = 0) -> None:
        self._name, self._failed, self._most = name, failed, most
        self._idle = threading.Condition()
        self._waiting: queue.SimpleQueue[Job | None] | None = None  # of the thread, where there is one
        self.pending = 0
        """Jobs that are not done."""

    def submit(self, job: Job) -> None:
        """Does it, later; the thread starts with the first one."""
        with self._idle:
            self._idle.wait_for(lambda: not self._most or self.pending < self._most)
            self.pending += 1
            if self._waiting is None:
                self._waiting = queue.SimpleQueue()
                given = self._waiting, _current_device()
                threading.Thread(target=self._work, args=given, name=self._name, daemon=True).start()
            self._waiting.put(job)

    def call(self, question: Callable[[], T]) -> Future[T]:
        """The answer, later."""
        answer: Future[T] = Future()

        def job() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        self.submit(job)
        return answer

    def drain(self, seconds: float) -> bool:
        """Waits until all are done; whether that came to be in time."""
        with self._idle:
            return self._idle.wait_for(lambda: self.pending == 0, timeout=seconds)

    def close(self) -> None:
        """Ends the thread when all are done that came before; another job starts another one."""
        with self._idle:
            if self._waiting is not None:
                self._waiting.put(None)
                self._waiting = None

    def _work(self, waiting: queue.SimpleQueue[Job | None], device: int | None) -> None:
        if device is not None:
            torch.cuda.set_device(device)
        while (job := waiting.get()) is not None:
            try:
                job()
            except Exception as error:
                self._failed(error)
            del job  # it may hold tensors
            with self._idle:
                self.pending -= 1
                self._idle.notify_all()


def _current_device() -> int | None:
    """The thread's CUDA device; None where CUDA is not in use, or it is the one of any thread, chosen or not."""
    return torch.cuda.current_device() or None if torch.cuda.is_initialized() else None
