"""A thread that does one job after the other."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Worker:
    """Does jobs in the order in which they come.

    A daemon, and none of concurrent.futures': those take nothing more once the interpreter is about to end, when a
    run that nobody closed is still to be judged.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._closed = self._said = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Callable[[], object]) -> None:
        """Does it, later; an error is said once, and the jobs after it are done all the same."""
        self._jobs.put(job)

    def ask(self, question: Callable[[], T]) -> Future[T]:
        """The answer, later; RuntimeError once it is closed."""
        answer: Future[T] = Future()
        if self._closed:
            answer.set_exception(RuntimeError("nobody answers any more"))
            return answer

        def job() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        self._jobs.put(job)
        return answer

    def close(self) -> None:
        """Ends when everything is done that was asked for before."""
        self._closed = True
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                if not self._said:
                    self._said = True
                    logger.warning("rules do not see everything that is written: %r", error)
