"""Defines `Target`, which names a receiver and its events, and `Alerts`, which decides what a run sends to whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tbx_callbacks._notify.address import Address
from tbx_callbacks._notify.message import CRASH, END, EVENTS, STALL, Message
from tbx_callbacks._notify.outbox import Outbox
from tbx_callbacks._text import printable

_LONGEST = 1000  # characters of a text
MOST = 20
"""Findings and stalls that a run sends; its crash or its end always comes."""


@dataclass(frozen=True)
class Target:
    """A receiver of notifications, and the events that it wants."""

    address: Address
    events: tuple[str, ...] = EVENTS


class Alerts:
    """Sends the notifications of one run. No method blocks, except `close`, and none raises.

    Args:
        targets: the receivers.
        run: the run's folder or name.
    """

    def __init__(self, targets: Sequence[Target], run: str) -> None:
        self._outboxes = [(target.events, Outbox(target.address)) for target in targets]
        self._run, self._number, self._lock = run, 0, threading.Lock()

    def finding(self, step: int, severity: str, code: str, text: str) -> None:
        """Sends a finding of a rule, except notes. The caller passes each finding once."""
        if severity in EVENTS:
            self._post_limited(Message(severity, self._run, step, _shown(text), severity, code))

    def stall(self, step: int, seconds: float) -> None:
        """Sends that no step has ended for so long."""
        self._post_limited(Message(STALL, self._run, step, f"no step has ended for {duration(seconds)}"))

    def crash(self, step: int, why: str) -> None:
        """Sends that the training has failed."""
        self._post(Message(CRASH, self._run, step, _shown(why)))

    def end(self, step: int) -> None:
        """Sends that the training has ended well."""
        self._post(Message(END, self._run, step, f"the training has ended after {step} steps", severity="info"))

    def close(self, seconds: float) -> None:
        """Waits until all is sent, at most so long in total; what is left is sent while the process lives."""
        deadline = time.monotonic() + seconds
        for _, outbox in self._outboxes:
            outbox.close()
        for _, outbox in self._outboxes:
            outbox.wait(max(0.0, deadline - time.monotonic()))

    def _post_limited(self, message: Message) -> None:
        with self._lock:
            self._number += 1
            number = self._number
        if number == MOST:
            last = f"{message.text} (further findings and stalls of this run are not sent)"
            message = Message(**{**message.as_json(), "text": last})
        if number <= MOST:
            self._post(message)

    def _post(self, message: Message) -> None:
        for events, outbox in self._outboxes:
            if message.event in events:
                outbox.post(message)


def _shown(text: str) -> str:
    return printable(text[:_LONGEST])


def duration(seconds: float) -> str:
    """Describes a time: `90 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
