"""Reads single keys from the terminal, and leaves the terminal as it was."""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_SEQUENCE = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|[\x00-\x7f]")
_BEGINNING = re.compile(rb"\x1b(?:[\[O][0-9;]*)?\Z")  # of a sequence whose rest has not arrived
_NAMES = {b"A": "up", b"B": "down", b"Z": "shift-tab"}

ReadKeys = Callable[[float], list[str]]
"""Returns the keys that were pressed, after at most so many seconds: characters, or names such as `up`."""


class KeyReader:
    """Reads keys from a descriptor of a terminal.

    Args:
        descriptor: the descriptor.
        wait: waits for a number of seconds, once no more keys can come.
    """

    def __init__(self, descriptor: int, wait: Callable[[float], object]) -> None:
        self._descriptor, self._wait = descriptor, wait
        self._rest, self._is_open = b"", True

    def __call__(self, seconds: float) -> list[str]:
        """Returns keys; see `ReadKeys`."""
        if not self._is_open:
            self._wait(seconds)
            return []
        try:
            if not select.select([self._descriptor], [], [], seconds)[0]:
                return []
            arrived = os.read(self._descriptor, 1024)
        except OSError:  # the terminal is gone
            arrived = b""
        self._is_open = bool(arrived)
        data = self._rest + arrived
        beginning = _BEGINNING.search(data)
        self._rest = data[beginning.start() :] if beginning else b""
        return [_name(one) for one in _SEQUENCE.findall(data[: len(data) - len(self._rest)])]


def _name(sequence: bytes) -> str:
    if len(sequence) > 1:
        return _NAMES.get(sequence[-1:], "")
    return "tab" if sequence == b"\t" else sequence.decode("ascii")


@contextmanager
def pressed_keys(wait: Callable[[float], object]) -> Iterator[ReadKeys]:
    """Yields a function that reads keys; without a terminal it only waits.

    The terminal passes on each key at once and shows none, until the block ends.

    Args:
        wait: waits for a number of seconds where no keys can be read.
    """

    def no_keys(seconds: float) -> list[str]:
        wait(seconds)
        return []

    descriptor = _terminal()
    if descriptor is None:
        yield no_keys
        return
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        modes = termios.tcgetattr(descriptor)
        modes[6][termios.VSUSP] = b"\x00"  # Ctrl-Z would leave the shell with these modes
        termios.tcsetattr(descriptor, termios.TCSANOW, modes)
        yield KeyReader(descriptor, wait)
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


def _terminal() -> int | None:
    """The descriptor of the standard input; None if keys cannot be read from it, as on Windows."""
    try:
        import termios  # noqa: F401

        descriptor = sys.stdin.fileno()
    except (ImportError, AttributeError, OSError, ValueError):
        return None
    return descriptor if os.isatty(descriptor) else None
