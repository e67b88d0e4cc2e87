"""Work in the middle of the training, of which nothing may escape and everything is counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from tbx_callbacks.costs import Bill, share
from tbx_callbacks.device_time import DeviceTime
from tbx_callbacks.plan import Entry
from tbx_callbacks.program import Guard


class Spending:
    """Catches errors, and counts what is done as the monitor's time and as that of the entries that need it.

    Args:
        safely: catches errors; counts the thread's time.
        device_time: counts the device's.
    """

    def __init__(self, safely: Guard, device_time: DeviceTime) -> None:
        self._safely, self._device_time = safely, device_time

    @contextlib.contextmanager
    def __call__(self, what: str, step: int, entries: Sequence[Entry]) -> Iterator[None]:
        """Something is done in here for these entries.

        Args:
            what: is done, for the message of an error.
            step: at which.
            entries: need it, and pay it: what none of them says to have cost by itself in equal parts, for it is
                done if only one is due.
        """
        costs = [entry.cost for entry in entries]
        with self._safely(what, step), self._device_time.span(step, costs), torch.no_grad():
            bill, started = Bill(costs), self._safely.clock()
            try:
                yield
            finally:
                share(costs, self._safely.clock() - started - bill.seconds(), step)
