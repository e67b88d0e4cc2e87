"""Sends messages from rank 0 to all ranks, which handle them after the same step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from tbx_callbacks.metrics.values import Max, Partial, Partials

Numbers = Mapping[str, float]
Message = tuple[str, Numbers]
_PREFIX = "message:"  # no tag holds a colon
_PRESENT = ""  # marks that a message exists, since it may have no numbers


class Messages:
    """Queues messages of rank 0 and delivers them to handlers on each rank.

    Rank 0 may send at any time, from any thread. Its messages travel when a due step is merged, or with the next due
    step if that would need one collective too many. Every rank calls the handlers in the training thread, after a later
    step has ended: the same messages at the same step, even if one rank is ahead. A rank that is too early waits, but
    only while messages have subscribers.

    A single process handles a message when the next step ends.

    Args:
        rank: rank of this process; rank 0 sends. None in a training with a single process.
    """

    def __init__(self, rank: int | None = None) -> None:
        self._is_single = rank is None
        self.is_sender = not rank
        """Whether this rank sends messages."""
        self.pending: deque[tuple[int, Callable[[], Sequence[Message]]]] = deque()
        """Pairs of a step and a function that returns its messages after that step; empty if nothing to deliver."""
        self._handlers: dict[str, Callable[[Numbers], None]] = {}
        # One thread appends and another pops. A deque allows this without a lock, and a lock could not be pickled.
        self._outbox: deque[Message] = deque()

    def subscribe(self, name: str, handler: Callable[[Numbers], None]) -> None:
        """Registers a handler for messages of this name.

        Call it on all ranks at the same step, or before the training.

        Args:
            name: name of the messages.
            handler: receives the numbers of a message, the same on each rank.
        """
        self._handlers[name] = handler

    def unsubscribe(self, name: str) -> None:
        """Removes the handler, so that no rank waits for messages of this name; all ranks call it from the handler."""
        self._handlers.pop(name, None)

    @property
    def has_subscribers(self) -> bool:
        """Whether there are handlers: each due step then waits for messages."""
        return bool(self._handlers)

    def send(self, name: str, numbers: Numbers) -> None:
        """Sends a message on rank 0; does nothing on other ranks.

        Args:
            name: name of the message. Messages of one name that travel together are merged.
            numbers: finite numbers, by name; may be empty.
        """
        message = name, dict(numbers)
        if self._is_single:
            self.pending.append((-1, lambda: [message]))
        elif self.is_sender:
            self._outbox.append(message)

    def raise_later(self, error: Exception) -> None:
        """Raises an error at the next delivery of messages."""

        def answer() -> Sequence[Message]:
            raise error

        self.pending.appendleft((-1, answer))

    def deliver(self, step: int) -> None:
        """Calls the handlers for messages of steps before this one. Raises the error of `raise_later`."""
        while self.pending and self.pending[0][0] < step:
            _, answer = self.pending.popleft()
            for name, numbers in answer():
                if name in self._handlers:
                    self._handlers[name](numbers)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "pending": deque()}  # pending messages belong to a training that has ended

    # -- transport -------------------------------------------------------------------------------------------------

    def outgoing(self) -> Partials:
        """Returns the queued messages as partial values, and clears the queue."""
        numbers: dict[str, float] = {}
        for name, message in _popped(self._outbox):
            numbers |= {f"{_PREFIX}{name}:{key}": number for key, number in {_PRESENT: 1.0, **message}.items()}
        return {tag: Partial(Max(number), (), (number,)) for tag, number in numbers.items()}


def incoming(maxima: Mapping[str, Sequence[float]]) -> Sequence[Message]:
    """Returns the messages in the maxima of a merged step, by tag."""
    messages: dict[str, dict[str, float]] = {}
    for tag, numbers in maxima.items():
        if tag.startswith(_PREFIX) and numbers[0] > -math.inf:  # an earlier message may have had other names
            name, _, key = tag.removeprefix(_PREFIX).partition(":")
            messages.setdefault(name, {})[key] = numbers[0]
    return [
        (name, {key: number for key, number in numbers.items() if key != _PRESENT})
        for name, numbers in messages.items()
    ]


def without_messages(merged: Partials) -> Partials:
    """Returns the merged values of a step without the messages."""
    return {tag: part for tag, part in merged.items() if not tag.startswith(_PREFIX)}


def _popped(queue: deque[Message]) -> Iterator[Message]:
    while queue:
        yield queue.popleft()
