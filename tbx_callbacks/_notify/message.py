"""Defines `Message`, one notification, and the names of its events."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from tbx_callbacks._text import count, printable

CRASH, STALL, END, ERROR, WARNING = EVENTS = ("crash", "stall", "end", "error", "warning")
"""The events in the order of their weight; `error` and `warning` are findings of the rules."""
_LONGEST = 1000  # characters of a text
_LOGIN = re.compile(r"(?<=://)(?:[^\s/]*@|[^\s/]*(?=\.\.\.))")  # whole, or where a long text was cut
_QUERY = re.compile(r"(://[^\s?'\"<>]*\?)[^\s'\"<>)]*")


@dataclass(frozen=True)
class Message:
    """One notification.

    Attributes:
        event: one of EVENTS.
        run: the run's folder, or its name.
        step: the last finished step.
        text: one or two sentences; control characters are replaced, and in URLs the user, the password and the query.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(_without_secrets(self.text)[:_LONGEST]))
        object.__setattr__(self, "run", printable(self.run))

    @property
    def title(self) -> str:
        """The event, the run and the step on one line."""
        return f"{self.event}{f' {self.code}' if self.code else ''}: {self.run}, step {self.step}"

    def as_json(self) -> dict[str, Any]:
        """The fields that a webhook receives."""
        return asdict(self)


def finding(run: str, step: int, severity: str, code: str, text: str) -> Message | None:
    """Returns the message about a finding of a rule; None for a note."""
    return Message(severity, run, step, text, severity, code) if severity in (ERROR, WARNING) else None


def stall(run: str, step: int, seconds: float, what: str) -> Message:
    """Returns the message that `what` has not come for so long."""
    return Message(STALL, run, step, f"{what} for {duration(seconds)}")


def end(run: str, step: int, *, is_interrupted: bool = False) -> Message:
    """Returns the message that a training has ended well, or that somebody has interrupted it."""
    how = "was interrupted" if is_interrupted else "has ended"
    return Message(END, run, step, f"the training {how} after {count(step, 'step')}", "info")


def _without_secrets(text: str) -> str:
    """The text, such as that of an exception, without what a URL in it may grant."""
    return _QUERY.sub(r"\1...", _LOGIN.sub("", text))


def duration(seconds: float) -> str:
    """Describes a time: `90 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
