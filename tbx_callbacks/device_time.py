"""How long a device works on what is measured, which the training thread does not see."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from tbx_callbacks.costs import Bill, Cost
from tbx_callbacks.counters import Stopwatch


class DeviceTime:
    """Adds to the stopwatch's `monitoring` what a device takes for a span of work beyond what the thread took for it.

    Two events mark a span; they are read at a later span, when the device has passed them. Nothing waits.

    Args:
        stopwatch: counts the time that the thread took.
        mark: records an event where the device's work is now; None where work is done when the thread has done it.
    """

    def __init__(self, stopwatch: Stopwatch, mark: Callable[[], Any] | None) -> None:
        self._stopwatch, self._mark = stopwatch, mark
        self._open: deque[tuple[Any, Any, float, int, Sequence[tuple[Cost, float]]]] = deque()

    @contextlib.contextmanager
    def span(self, step: int, costs: Sequence[Cost]) -> Iterator[None]:
        """What is done in here at a step is measured; these pay for it, as much as each has cost the thread in here."""
        if self._mark is None:
            yield
            return
        self._collect()
        bill, started, began = Bill(costs), self._stopwatch.clock(), self._mark()
        try:
            yield
        finally:
            ended, thread = self._mark(), self._stopwatch.clock() - started
            self._open.append((began, ended, thread, step, bill.parts()))

    def _collect(self) -> None:
        while self._open and self._open[0][1].query():
            began, ended, thread, step, shared = self._open.popleft()
            more = max(0.0, began.elapsed_time(ended) / 1000 - thread)  # milliseconds
            self._stopwatch.monitoring += more
            for cost, part in shared:
                cost.add_late(more * part, step)


def marks_of(device: torch.device) -> Callable[[], Any] | None:
    """What marks where a device's work is; None for those that the thread waits for.

    The stream is that of the model's device: another one may be the thread's current device, and do nothing.
    """
    if device.type != "cuda":
        return None

    def mark() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    return mark
