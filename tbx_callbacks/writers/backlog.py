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
        self._events: deque[tuple[Any, int, bool]] = deque()  # event, size, whether it has histograms
        self._bytes = self._with_histograms = 0
        self.lost_values = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def bytes(self) -> int:
        """Size of what waits."""
        return self._bytes

    def add(self, event: Any) -> None:
        """Queues an event, and makes room if that is too much."""
        self._events.append(self._counted(event))
        self._make_room()

    def take(self, max_bytes: int) -> list[Any]:
        """Removes the oldest events, up to this size but at least one if there is one."""
        taken: list[Any] = []
        size = 0
        while self._events and (not taken or size + self._events[0][1] <= max_bytes):
            size += self._events[0][1]
            taken.append(self._pop())
        return taken

    def put_back(self, events: list[Any]) -> None:
        """Returns events that could not be written to the front."""
        for event in reversed(events):
            self._events.appendleft(self._counted(event))
        self._make_room()

    def give_up(self) -> None:
        """Counts everything that still waits as lost."""
        while self._events:
            self._lose_oldest()

    def _make_room(self) -> None:
        if self._bytes <= self._max_bytes:
            return
        wanted = int(0.95 * self._max_bytes)  # a little more than needed, so that it is not needed again at once
        place = 0
        while self._bytes > wanted and self._with_histograms and place < len(self._events):
            if self._events[place][2]:
                self._lose_histograms(place)
            place += 1
        while self._bytes > wanted and self._events:
            self._lose_oldest()

    def _lose_histograms(self, place: int) -> None:
        event, size, _ = self._events[place]
        kept = [value for value in event.summary.value if not value.HasField("histo")]
        self.lost_values += len(event.summary.value) - len(kept)
        del event.summary.value[:]
        event.summary.value.extend(kept)
        self._bytes -= size
        self._with_histograms -= 1
        self._events[place] = self._counted(event)

    def _lose_oldest(self) -> None:
        self.lost_values += len(self._pop().summary.value)

    def _counted(self, event: Any) -> tuple[Any, int, bool]:
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
