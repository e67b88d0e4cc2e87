"""How long a device works on what is measured, which the training thread does not see."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from tbx_callbacks.counters import Stopwatch


class DeviceTime:
    """Adds to the stopwatch's `monitoring` what a device takes for a span of work beyond what the thread took for it.

    Two events mark a span; they are read at a later span, when the device has passed them. Nothing waits.

    Args:
        stopwatch: counts the time that the thread took.
        event: makes an event; None where work is done when the thread has done it.
    """

    def __init__(self, stopwatch: Stopwatch, event: Callable[[], Any] | None) -> None:
        self._stopwatch, self._event = stopwatch, event
        self._open: deque[tuple[Any, Any, float]] = deque()

    @contextlib.contextmanager
    def span(self) -> Iterator[None]:
        """What is done in here is measured."""
        if self._event is None:
            yield
            return
        self._collect()
        began, ended, started = self._event(), self._event(), self._stopwatch.clock()
        began.record()
        try:
            yield
        finally:
            ended.record()
            self._open.append((began, ended, self._stopwatch.clock() - started))

    def _collect(self) -> None:
        while self._open and self._open[0][1].query():
            began, ended, thread = self._open.popleft()
            self._stopwatch.monitoring += max(0.0, began.elapsed_time(ended) / 1000 - thread)  # milliseconds


def events_of(device: torch.device) -> Callable[[], Any] | None:
    """What makes events of a device; None for those that the thread waits for."""
    return partial(torch.cuda.Event, enable_timing=True) if device.type == "cuda" else None
