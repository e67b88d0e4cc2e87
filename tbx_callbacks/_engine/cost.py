"""Counts what each metric costs: seconds of the training thread, and of a device beyond them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from tbx_callbacks._engine.counters import Stopwatch


class Cost:
    """Seconds that an entry cost. What it took at one step, in however many parts, is one run.

    The first run also pays for imports and allocations, so it is kept apart.
    """

    def __init__(self) -> None:
        self.runs = self._began = self._ended = 0
        self._first = self._rest = 0.0

    def add(self, seconds: float, step: int) -> None:
        """Adds what was done at a step."""
        if self.runs == 0:
            self._began = step
        if self.runs == 0 or step != self._ended:
            self.runs, self._ended = self.runs + 1, step
        self.add_delayed(seconds, step)

    def add_delayed(self, seconds: float, step: int) -> None:
        """Adds what is known now of an earlier step."""
        if step <= self._began:
            self._first += seconds
        else:
            self._rest += seconds

    @property
    def total(self) -> float:
        """Seconds of all runs."""
        return self._first + self._rest

    @property
    def per_step(self) -> float:
        """Seconds a step, from the first run to the last."""
        return self._rest / (self._ended - self._began) if self.runs > 1 else 0.0


class CostSlice:
    """What some entries cost by themselves since the bill began."""

    def __init__(self, costs: Sequence[Cost]) -> None:
        self._costs, self._before = costs, [cost.total for cost in costs]

    def seconds(self) -> float:
        """All of it."""
        return sum(self._took())

    def shares(self) -> list[tuple[Cost, float]]:
        """Each entry's part of it; the same of nothing."""
        took, whole = self._took(), self.seconds()
        return [(c, t / whole if whole else 1 / len(took)) for c, t in zip(self._costs, took, strict=True)]

    def _took(self) -> list[float]:
        return [cost.total - before for cost, before in zip(self._costs, self._before, strict=True)]


def split_cost(costs: Sequence[Cost], seconds: float, step: int) -> None:
    """Adds what was done for several entries at once: each pays the same part."""
    for cost in costs:
        cost.add(seconds / len(costs), step)


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
        bill, started, began = CostSlice(costs), self._stopwatch.clock(), self._mark()
        try:
            yield
        finally:
            ended, thread = self._mark(), self._stopwatch.clock() - started
            self._open.append((began, ended, thread, step, bill.shares()))

    def _collect(self) -> None:
        while self._open and self._open[0][1].query():
            began, ended, thread, step, shared = self._open.popleft()
            more = max(0.0, began.elapsed_time(ended) / 1000 - thread)  # milliseconds
            self._stopwatch.monitoring += more
            for cost, part in shared:
                cost.add_delayed(more * part, step)


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
