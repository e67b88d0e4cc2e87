"""Defines `Guard`, which keeps errors of monitoring code out of the training and charges its time to the metrics."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import torch

from tbx_callbacks._engine.cost import DeviceTime, charge
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.metric_plan import MetricRun
from tbx_callbacks._extensions import OUTSIDE_ERRORS
from tbx_callbacks._text import reason

logger = logging.getLogger(__name__)


def _on_host() -> contextlib.AbstractContextManager[object]:
    """Places tensors created without a device on the CPU, regardless of `torch.set_default_device`."""
    return contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


class Guard:
    """Keeps errors of monitoring code out of the training: logs each kind once, and skips the affected values.

    Args:
        strict: raise errors.
        stopwatch: counts the time spent inside.
    """

    def __init__(self, *, strict: bool, stopwatch: Stopwatch) -> None:
        self._strict, self._stopwatch = strict, stopwatch
        self.device_time = DeviceTime(stopwatch, None)
        """Counts the extra time of the device; a training with a device sets it."""
        self._warned: set[str] = set()

    @contextlib.contextmanager
    def __call__(self, what: str, step: int, metric_runs: Sequence[MetricRun] = ()) -> Iterator[None]:
        """Guards the work inside the context.

        Args:
            what: names the work in error messages.
            step: the current step.
            metric_runs: the metrics that need the work. Time that none of them charges to itself is split equally,
                since the work would be done for any single one of them.
        """
        started, times = self._stopwatch.clock(), self._stopwatch.times
        if times is not None:
            times.begin_own()
        try:
            with _on_host():
                if metric_runs:
                    costs = [metric_run.cost for metric_run in metric_runs]
                    with self.device_time.span(step, costs), self.charged(step, metric_runs), torch.no_grad():
                        yield
                else:
                    yield
        except OUTSIDE_ERRORS as error:
            self.report(what, step, error)
        finally:
            self._stopwatch.monitoring += self._stopwatch.clock() - started
            if times is not None:
                times.end_own()

    def charged(self, step: int, metric_runs: Sequence[MetricRun]) -> contextlib.AbstractContextManager[None]:
        """Charges a part of the guarded work to the metrics that need this part."""
        return charge([metric_run.cost for metric_run in metric_runs], step, self._stopwatch.clock)

    def report(self, what: str, step: int, error: BaseException) -> None:
        """Logs the error, once for each `what`, or raises it if strict."""
        if self._strict:
            raise error
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s failed at step %d; the affected values are not written: %s", what, step, reason(error))
