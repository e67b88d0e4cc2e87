"""Catches errors of monitoring code, and charges its time to the metrics that needed it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import torch

from tbx_callbacks._engine.cost import CostSlice, DeviceTime, split_cost
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.metric_plan import MetricRun

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
        self._strict, self._stopwatch, self.clock = strict, stopwatch, stopwatch.clock
        self._warned: set[str] = set()

    @contextlib.contextmanager
    def __call__(self, what: str, step: int) -> Iterator[None]:
        started = self._stopwatch.clock()
        try:
            with _on_host():
                yield
        except Exception as error:
            self.report(what, step, error)
        finally:
            self._stopwatch.monitoring += self._stopwatch.clock() - started

    def report(self, what: str, step: int, error: Exception) -> None:
        """Logs the error, once for each `what`, or raises it if strict."""
        if self._strict:
            raise error
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s failed at step %d; the affected values are not written: %r", what, step, error)


class ChargedGuard:
    """Catches errors, and charges the time to monitoring and to the metrics that need the work.

    Args:
        guard: catches errors and counts the time of the thread.
        device_time: counts the time of the device.
    """

    def __init__(self, guard: Guard, device_time: DeviceTime) -> None:
        self._guard, self._device_time = guard, device_time

    @contextlib.contextmanager
    def __call__(self, what: str, step: int, metric_runs: Sequence[MetricRun]) -> Iterator[None]:
        """Guards the work inside the context.

        Args:
            what: names the work in error messages.
            step: the current step.
            metric_runs: the metrics that need the work. Time that none of them charges to itself is split equally,
                since the work would be done for any single one of them.
        """
        costs = [metric_run.cost for metric_run in metric_runs]
        with self._guard(what, step), self._device_time.span(step, costs), torch.no_grad():
            cost_slice, started = CostSlice(costs), self._guard.clock()
            try:
                yield
            finally:
                split_cost(costs, self._guard.clock() - started - cost_slice.seconds(), step)
