"""Tests the backlog of events in bounded memory."""

from __future__ import annotations

from tbx_callbacks.writers.backlog import Backlog
from tests.helpers.events import scalar_event


def test_backlog_full_counts_each_event_once() -> None:
    counted = 0

    class Counting(Backlog):
        def _measure(self, event: object) -> tuple[object, int, bool]:
            nonlocal counted
            counted += 1
            return super()._measure(event)

    backlog = Counting(1 << 20)
    for step in range(20_000):
        backlog.add(scalar_event(step))
        assert backlog.bytes <= 1 << 20
    assert counted == 20_000
