"""Measures the cost of each metric: seconds of the training thread, and extra seconds of the device."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from tbx_callbacks._engine.counters import Stopwatch


class Cost:
    """Seconds spent on one metric run. All work at one step, in any number of parts, counts as one run.

    The first run is counted separately, because it also pays for imports and allocations.
    """

    def __init__(self) -> None:
        self.runs = self._first_step = self._last_step = 0
        self._first_seconds = self._later_seconds = 0.0

    def add(self, seconds: float, step: int) -> None:
        """Adds the seconds spent at a step."""
        if self.runs == 0:
            self._first_step = step
        if self.runs == 0 or step != self._last_step:
            self.runs, self._last_step = self.runs + 1, step
        self.add_delayed(seconds, step)

    def add_delayed(self, seconds: float, step: int) -> None:
        """Adds seconds of an earlier step that are only known now."""
        if step <= self._first_step:
            self._first_seconds += seconds
        else:
            self._later_seconds += seconds

    @property
    def total(self) -> float:
        """Seconds of all runs."""
        return self._first_seconds + self._later_seconds

    @property
    def per_step(self) -> float:
        """Seconds per step, from the first run to the last."""
        return self._later_seconds / (self._last_step - self._first_step) if self.runs > 1 else 0.0


@contextlib.contextmanager
def charge(costs: Sequence[Cost], step: int, clock: Callable[[], float]) -> Iterator[None]:
    """Charges the time inside the context, less what these costs add themselves meanwhile, in equal parts."""
    started = clock() - sum(cost.total for cost in costs)
    try:
        yield
    finally:
        seconds = clock() - sum(cost.total for cost in costs) - started
        for cost in costs:
            cost.add(seconds / len(costs), step)


class DeviceTime:
    """Adds to the stopwatch's `monitoring` the device time of a span that exceeds the thread time of that span.

    Two events mark a span. They are read during a later span, when the device has passed them, so nothing waits.

    Args:
        stopwatch: counts the time of the thread.
        mark: records an event in the device's queue; None where the thread does the work itself.
    """

    def __init__(self, stopwatch: Stopwatch, mark: Callable[[], Any] | None) -> None:
        self._stopwatch, self._mark = stopwatch, mark
        self._spans: deque[tuple[Any, Any, float, int, Sequence[tuple[Cost, float]]]] = deque()

    @contextlib.contextmanager
    def span(self, step: int, costs: Sequence[Cost]) -> Iterator[None]:
        """Measures the work inside the context.

        The extra device time is charged to `costs`, in proportion to the thread time each of them spent inside.
        """
        if self._mark is None:
            yield
            return
        self._collect()
        totals, thread_start, start_event = [cost.total for cost in costs], self._stopwatch.clock(), self._mark()
        try:
            yield
        finally:
            end_event, thread_seconds = self._mark(), self._stopwatch.clock() - thread_start
            spent = [cost.total - before for cost, before in zip(costs, totals, strict=True)]
            shares = [part / sum(spent) if sum(spent) else 1 / len(spent) for part in spent]
            self._spans.append((start_event, end_event, thread_seconds, step, list(zip(costs, shares, strict=True))))

    def _collect(self) -> None:
        while self._spans and self._spans[0][1].query():
            start_event, end_event, thread_seconds, step, cost_shares = self._spans.popleft()
            extra = max(0.0, start_event.elapsed_time(end_event) / 1000 - thread_seconds)  # elapsed_time() is in ms
            self._stopwatch.monitoring += extra
            for cost, part in cost_shares:
                cost.add_delayed(extra * part, step)


def device_marker(device: torch.device) -> Callable[[], Any] | None:
    """Returns a function that records an event in the device's queue; None for devices without a queue.

    The stream is that of the model's device. The thread's current device may be another, idle one.
    """
    if device.type != "cuda":
        return None

    def mark() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    return mark
