"""Jobs in the order in which they were given: at once, or behind those that wait for a device."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

_WAITING = 1000  # jobs; a device that is so far behind is waited for


class Behind:
    """Runs jobs on the caller's thread, and those that wait for a device, with all after them, on a thread of its own.

    Without such jobs there is no thread.
    """

    def __init__(self) -> None:
        self._idle = threading.Condition()
        self._open = 0
        self._failed = False
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def run(self, job: Callable[[], None], *, waits: bool = False) -> None:
        """Runs a job, now or later.

        Args:
            job: what to do; on the thread its errors are said once.
            waits: whether it waits for a device.
        """
        with self._idle:
            later = waits or self._open > 0
            if later:
                self._open += 1
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="tbx_callbacks device", daemon=True)
                    self._thread.start()
        if later:
            self._jobs.put(job)
        else:
            job()

    def close(self) -> None:
        """Ends the thread when all jobs are done; another job that waits starts another one."""
        with self._idle:
            if self._thread is not None:
                self._thread = None
                self._jobs.put(None)

    def drain(self, seconds: float) -> bool:
        """Waits until all jobs are done; whether that came to be in time."""
        with self._idle:
            return self._idle.wait_for(lambda: self._open == 0, timeout=seconds)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                if not self._failed:
                    self._failed = True
                    logger.warning("publishing failed; the step's numbers are left out: %r", error)
            del job  # it holds tensors
            with self._idle:
                self._open -= 1
                self._idle.notify_all()
