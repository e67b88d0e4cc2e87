"""Jobs in the order in which they were given: at once, or behind those that wait for a device."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tbx_callbacks.jobs import Jobs

logger = logging.getLogger(__name__)

_WAITING = 1000  # jobs; a device that is so far behind is waited for


class Behind:
    """Runs jobs on the caller's thread, and those that wait for a device, with all after them, on a thread of its own.

    Without such jobs there is no thread.
    """

    def __init__(self) -> None:
        self._jobs = Jobs("tbx_callbacks device", self._fail, most=_WAITING)
        self._said = False
        self.drain, self.close = self._jobs.drain, self._jobs.close

    def run(self, job: Callable[[], None], *, waits: bool = False) -> None:
        """Runs a job, now or later.

        Args:
            job: what to do; on the thread its errors are said once.
            waits: whether it waits for a device.
        """
        if waits or self._jobs.open:
            self._jobs.do(job)
        else:
            job()

    def _fail(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            logger.warning("publishing failed; the step's numbers are left out: %r", error)
