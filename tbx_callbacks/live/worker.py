"""A thread that does one job after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """Does jobs in the order in which they come.

    A daemon, and none of concurrent.futures': those take nothing more once the interpreter is about to end, when a
    run that nobody closed is still to be judged.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Callable[[], object]) -> None:
        """Does it, later. It must not fail."""
        self._jobs.put(job)

    def ask(self, question: Callable[[], T]) -> Future[T]:
        """The answer, later."""
        answer: Future[T] = Future()

        def job() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        self._jobs.put(job)
        return answer

    def close(self) -> None:
        """Ends when everything is done that was asked for before."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
