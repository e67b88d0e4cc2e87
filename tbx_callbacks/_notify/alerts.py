"""Defines `Target`, which names a receiver and its events, and `Alerts`, which passes messages on to the receivers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tbx_callbacks._notify.address import Address
from tbx_callbacks._notify.message import CRASH, END, EVENTS, Message
from tbx_callbacks._notify.outbox import Outbox

MOST = 20
"""Findings and stalls that are sent for a run; its crash or its end always is."""


@dataclass(frozen=True)
class Target:
    """A receiver of notifications, and the events that it wants."""

    address: Address
    events: tuple[str, ...] = EVENTS


class Alerts:
    """Sends messages to the receivers that want them. `post` never blocks and never raises.

    Args:
        targets: the receivers.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._outboxes = [(target.events, Outbox(target.address)) for target in targets]
        self._numbers, self._lock = Counter[str](), threading.Lock()

    def post(self, message: Message) -> None:
        """Sends a message; a finding or a stall only if it is one of the first of its run. From any thread."""
        if message.event not in (CRASH, END):
            with self._lock:
                self._numbers[message.run] += 1
                number = self._numbers[message.run]
            if number > MOST:
                return
            if number == MOST:
                last = "further findings and stalls of this run are not sent; "
                message = replace(message, text=f"{last}{message.text}")
        for events, outbox in self._outboxes:
            if message.event in events:
                outbox.post(message)

    def close(self, seconds: float) -> None:
        """Waits until all is sent, at most so long in total; what is left is sent while the process lives.

        If a wait was in vain, a warning says what is left.
        """
        deadline = time.monotonic() + seconds
        for _, outbox in self._outboxes:
            outbox.close()
        for _, outbox in self._outboxes:
            if not outbox.wait(max(0.0, deadline - time.monotonic())) and seconds > 0:
                outbox.give_up()
