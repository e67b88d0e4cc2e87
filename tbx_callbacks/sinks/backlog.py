"""Events that wait for the disk, in bounded memory."""

from __future__ import annotations

from collections import deque
from typing import Any


class Backlog:
    """A queue of events. Over its size it lets go of the oldest histograms first, and of whole old events after that.

    Not thread-safe: the event writer guards it.

    Args:
        max_bytes: size of all waiting events.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._events: deque[tuple[Any, int]] = deque()
        self._bytes = 0
        self.lost_values = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def bytes(self) -> int:
        """Size of what waits."""
        return self._bytes

    def add(self, event: Any) -> None:
        """Queues an event, and makes room if that is too much."""
        size = event.ByteSize()
        self._events.append((event, size))
        self._bytes += size
        self._make_room()

    def take(self, max_bytes: int) -> list[Any]:
        """Removes the oldest events, up to this size but at least one if there is one."""
        taken: list[Any] = []
        size = 0
        while self._events and (not taken or size + self._events[0][1] <= max_bytes):
            event, event_size = self._events.popleft()
            self._bytes -= event_size
            size += event_size
            taken.append(event)
        return taken

    def put_back(self, events: list[Any]) -> None:
        """Returns events that could not be written to the front."""
        for event in reversed(events):
            size = event.ByteSize()
            self._events.appendleft((event, size))
            self._bytes += size
        self._make_room()

    def give_up(self) -> None:
        """Counts everything that still waits as lost."""
        while self._events:
            self._lose_oldest()

    def _make_room(self) -> None:
        place = 0
        while self._bytes > self._max_bytes and place < len(self._events):
            self._lose_histograms(place)
            place += 1
        while self._bytes > self._max_bytes and self._events:
            self._lose_oldest()

    def _lose_histograms(self, place: int) -> None:
        event, size = self._events[place]
        kept = [value for value in event.summary.value if not value.HasField("histo")]
        gone = len(event.summary.value) - len(kept)
        if gone:
            self.lost_values += gone
            del event.summary.value[:]
            event.summary.value.extend(kept)
            self._events[place] = (event, event.ByteSize())
            self._bytes += self._events[place][1] - size

    def _lose_oldest(self) -> None:
        event, size = self._events.popleft()
        self._bytes -= size
        self.lost_values += len(event.summary.value)
