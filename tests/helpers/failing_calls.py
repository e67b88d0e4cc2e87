"""Makes the calls to the file system fail that a writer's event file makes."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tbx_callbacks.writers import event_file

CALLS = ("open", "write", "fsync", "fstat", "stat", "pread", "ftruncate", "mkdir", "listdir", "close", "unlink")
"""Every function of the operating system that an event file calls; `used_calls` finds them."""
ERRORS: dict[str, Callable[[], Exception]] = {
    **{
        errno.errorcode[number]: (lambda number=number: OSError(number, os.strerror(number)))
        for number in (errno.ENOSPC, errno.EIO, errno.EACCES, errno.ESTALE, errno.EDQUOT, errno.EINTR)
    },
    "MemoryError": lambda: MemoryError("no memory"),
    "ValueError": lambda: ValueError("I/O operation on closed file"),
}
SHORT = "short write"
NOTHING = "nothing written"
TORN = "half written, then an error"
"""Further faults of `write`."""

_HARMLESS = {"fspath", "getpid", "urandom", "strerror"}  # they touch no file of the run


class FailingCalls:
    """Counts the calls of one function, and lets the n-th fail, or the n-th and all later ones.

    Args:
        name: a name of CALLS.
        fault: a name of ERRORS, or a fault of `write`.
        first: number of the first call that fails, from 1; 0 for none.
        for_ever: whether all later calls fail too.
    """

    def __init__(self, name: str, fault: str, first: int, *, for_ever: bool) -> None:
        self.name, self._fault, self._first, self._for_ever = name, fault, first, for_ever
        self._real = getattr(os, name)
        self.calls = self.failed = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not _is_called_by_event_file():
            return self._real(*arguments, **options)
        self.calls += 1
        if self._first == 0 or self.calls < self._first or (self.calls > self._first and not self._for_ever):
            return self._real(*arguments, **options)
        self.failed += 1
        if self._fault == NOTHING:
            return 0
        if self._fault in (SHORT, TORN):
            descriptor, data = arguments
            written = self._real(descriptor, data[: (len(data) + 1) // 2])
            if self._fault == SHORT:
                return written
            raise ERRORS["ENOSPC"]()
        if self.name == "close":
            self._real(*arguments, **options)  # as on Linux, which frees the descriptor in any case
        raise ERRORS[self._fault]()


@contextmanager
def failing(*calls: FailingCalls) -> Iterator[None]:
    """Puts the failing calls in the place of the real ones."""
    for call in calls:
        setattr(os, call.name, call)
    try:
        yield
    finally:
        for call in reversed(calls):
            setattr(os, call.name, call._real)


@contextmanager
def used_calls() -> Iterator[set[str]]:
    """Collects the names of the functions of the operating system that event files call on any thread."""
    used: set[str] = set()

    def profile(frame: Any, event: str, function: Any) -> None:
        is_system = event == "c_call" and getattr(function, "__module__", None) in ("posix", "nt")
        if is_system and function.__name__ not in _HARMLESS and _is_called_by_event_file(frame):
            used.add(function.__name__)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield used
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def _is_called_by_event_file(frame: Any = None) -> bool:
    frame = frame or sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__") == event_file.__name__:
            return True
        frame = frame.f_back
    return False
