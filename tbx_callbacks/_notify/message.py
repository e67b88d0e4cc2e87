"""Defines `Message`, one notification, and the names of its events."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

CRASH, STALL, END, ERROR, WARNING = EVENTS = ("crash", "stall", "end", "error", "warning")
"""The events in the order of their weight; `error` and `warning` are findings of the rules."""


@dataclass(frozen=True)
class Message:
    """One notification.

    Attributes:
        event: one of EVENTS.
        run: the run's folder, or its name.
        step: the last finished step.
        text: one or two sentences.
        severity: `error`, `warning`, or `info` for the end of a training.
        code: the code of the rule; empty for other events.
        time: seconds since 1970.
    """

    event: str
    run: str
    step: int
    text: str
    severity: str = "error"
    code: str = ""
    time: float = field(default_factory=time.time)

    @property
    def title(self) -> str:
        """The event, the run and the step on one line."""
        return f"{self.event}{f' {self.code}' if self.code else ''}: {self.run}, step {self.step}"

    def as_json(self) -> dict[str, Any]:
        """The fields that a webhook receives."""
        return asdict(self)
