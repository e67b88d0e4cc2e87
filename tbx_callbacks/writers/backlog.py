"""Queues events that wait for the disk, in bounded memory."""

from __future__ import annotations

from collections import deque
from typing import Any


def value_count(event: Any) -> int:
    """Returns the number of values in an event; an event without a summary, such as a graph, is one value."""
    return len(event.summary.value) or 1


class Backlog:
    """A queue of events. Above its limit it drops the oldest histograms first, then the oldest events.

    The newest event always stays, also if it alone is larger than the limit: it has not been tried yet.

    Not thread-safe: the event writer holds a lock.

    Args:
        max_bytes: maximum size of all queued events.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._events: deque[tuple[Any, int, bool]] = deque()  # event, size, whether it has histograms
        self._bytes = self._with_histograms = 0
        self.lost_values = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def bytes(self) -> int:
        """Size of all queued events."""
        return self._bytes

    def add(self, event: Any) -> None:
        """Queues an event, and drops others if the queue is too large."""
        self._events.append(self._measure(event))
        self._make_room()

    def take(self, max_bytes: int) -> list[Any]:
        """Removes and returns the oldest events: up to this size, but at least one if there are any."""
        events: list[Any] = []
        size = 0
        while self._events and (not events or size + self._events[0][1] <= max_bytes):
            size += self._events[0][1]
            events.append(self._pop())
        return events

    def put_back(self, events: list[Any]) -> None:
        """Puts events that could not be written back at the front."""
        for event in reversed(events):
            self._events.appendleft(self._measure(event))
        self._make_room()

    def give_up(self) -> None:
        """Drops all queued events and counts them as lost."""
        while self._events:
            self._drop_oldest()

    def _make_room(self) -> None:
        if self._bytes <= self._max_bytes:
            return
        target = int(0.95 * self._max_bytes)  # free more than needed, so that the next event fits too
        index = 0
        while self._bytes > target and self._with_histograms and index < len(self._events) - 1:
            if self._events[index][2]:
                self._drop_histograms(index)
            index += 1
        while self._bytes > target and len(self._events) > 1:
            self._drop_oldest()

    def _drop_histograms(self, index: int) -> None:
        event, size, _ = self._events[index]
        others = [value for value in event.summary.value if not value.HasField("histo")]
        self.lost_values += len(event.summary.value) - len(others)
        del event.summary.value[:]
        event.summary.value.extend(others)
        self._bytes -= size
        self._with_histograms -= 1
        self._events[index] = self._measure(event)

    def _drop_oldest(self) -> None:
        self.lost_values += value_count(self._pop())

    def _measure(self, event: Any) -> tuple[Any, int, bool]:
        size = event.ByteSize()
        has_histograms = any(value.HasField("histo") for value in event.summary.value)
        self._bytes += size
        self._with_histograms += has_histograms
        return event, size, has_histograms

    def _pop(self) -> Any:
        event, size, has_histograms = self._events.popleft()
        self._bytes -= size
        self._with_histograms -= has_histograms
        return event
