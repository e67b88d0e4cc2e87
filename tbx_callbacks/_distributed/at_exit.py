"""Closes what is still open when the process ends."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class AtExit(Generic[T]):
    """Calls `close(owner)` when the process ends, unless `cancel` was called or the owner is gone by then.

    The owner holds this object, which does not keep the owner alive. Of several owners, the one that registered last is
    closed first, and before the temporary folders that existed then are removed. A forked child closes nothing: what
    is open belongs to its parent.

    Args:
        owner: the object to close.
        close: closes it; must not refer to the owner.
    """

    def __init__(self, owner: T, close: Callable[[T], object]) -> None:
        self._owner, self._close = weakref.ref(owner), close
        self._pid: int | None = None
        self._entry: weakref.finalize[Any, Any] | None = None

    @property
    def is_registered(self) -> bool:
        """Whether this process will close the owner."""
        return self._entry is not None and self._pid == os.getpid()

    def register(self) -> None:
        """Makes sure that the owner is closed."""
        if not self.is_registered:
            self.cancel()
            self._pid = os.getpid()
            # Not atexit: it keeps an empty entry for everything that was ever registered.
            self._entry = weakref.finalize(self, _run, self._owner, self._close, self._pid)

    def cancel(self) -> None:
        """Removes the entry."""
        if self._entry is not None:
            self._entry.detach()
            self._entry = None


def _run(owner: weakref.ref[T], close: Callable[[T], object], pid: int) -> None:
    target = owner()
    if target is not None and os.getpid() == pid:
        close(target)
