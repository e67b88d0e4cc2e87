"""Keeps errors of monitoring out of the training, and charges its time to the metrics that needed it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import torch

from tbx_callbacks._engine.cost import CostSlice, DeviceTime, split_cost
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.plan import MetricRun

logger = logging.getLogger(__name__)


def _on_host() -> contextlib.AbstractContextManager[object]:
    """Tensors that are made without naming a device are on the CPU, whatever torch.set_default_device chose."""
    return contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


class Guard:
    """Nothing of ours may end the training: an error is said once, and what it concerns is left out.

    Args:
        strict: raise errors.
        stopwatch: is told what time went by in here.
    """

    def __init__(self, *, strict: bool, stopwatch: Stopwatch) -> None:
        self._strict, self._stopwatch, self.clock = strict, stopwatch, stopwatch.clock
        self._said: set[str] = set()

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
        """Says it once, or raises."""
        if self._strict:
            raise error
        if what not in self._said:
            self._said.add(what)
            logger.warning("%s failed at step %d; its numbers are left out: %r", what, step, error)


class ChargedGuard:
    """Catches errors, and counts what is done as the monitor's time and as that of the entries that need it.

    Args:
        safely: catches errors; counts the thread's time.
        device_time: counts the device's.
    """

    def __init__(self, safely: Guard, device_time: DeviceTime) -> None:
        self._safely, self._device_time = safely, device_time

    @contextlib.contextmanager
    def __call__(self, what: str, step: int, metric_runs: Sequence[MetricRun]) -> Iterator[None]:
        """Something is done in here for these entries.

        Args:
            what: is done, for the message of an error.
            step: at which.
            entries: need it, and pay it: what none of them says to have cost by itself in equal parts, for it is
                done if only one is due.
        """
        costs = [metric_run.cost for metric_run in metric_runs]
        with self._safely(what, step), self._device_time.span(step, costs), torch.no_grad():
            bill, started = CostSlice(costs), self._safely.clock()
            try:
                yield
            finally:
                split_cost(costs, self._safely.clock() - started - bill.seconds(), step)
