"""Shows frames until the user quits: a thread reads the runs, keys and new sizes of the terminal redraw at once."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from rich.console import Console
from rich.live import Live

from tbx_callbacks._text import printable, reason
from tbx_callbacks.monitor.frame import Frame
from tbx_callbacks.monitor.keys import pressed_keys
from tbx_callbacks.monitor.view import View
from tbx_callbacks.monitor.watched_runs import Snapshot, WatchedRuns

_LOOK = 0.2  # seconds between two looks at the runs that were read and at the size of the terminal
_READING_SHARE = 0.25  # of the time; large runs are read less often
_LONGEST_JOIN = 2.0  # seconds; a disk that hangs must not keep the user


def follow(runs: WatchedRuns, console: Console, stopped: threading.Event, every: float) -> None:
    """Shows the runs on the whole screen until a key or the event ends it; then the screen is as it was before.

    Args:
        runs: the runs.
        console: the terminal.
        stopped: ends the view when it is set.
        every: seconds between two readings.
    """
    with _reading(runs, every) as reading, _messages() as messages, pressed_keys(stopped.wait) as keys:
        view, drawn = View(), None
        with Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as live:
            while not stopped.is_set():
                if not reading.snapshot.reading:  # all runs were read
                    view = view.pinned(reading.snapshot.runs)
                state = (view, reading.snapshot, console.size, messages.last)
                if state != drawn:
                    live.update(Frame(reading.snapshot, view, runs.logdir, messages.last), refresh=True)
                    drawn = state
                for key in keys(_LOOK):
                    if key == "q":
                        return
                    view = view.press(key, reading.snapshot.runs)


class _Reading:
    """The thread that reads the runs."""

    def __init__(self, runs: WatchedRuns, every: float) -> None:
        self.snapshot = Snapshot()
        self._runs, self._every = runs, every
        self.stopped = threading.Event()

    def __call__(self) -> None:
        while not self.stopped.is_set():
            started = time.monotonic()
            try:
                for snapshot in self._runs.snapshots():
                    self.snapshot = snapshot
                    if self.stopped.is_set():
                        return
            except Exception as error:  # of the file system; the next reading may succeed
                self.snapshot = Snapshot(self.snapshot.runs, time.time(), printable(reason(error)))
            taken = time.monotonic() - started
            self.stopped.wait(max(self._every, taken / _READING_SHARE - taken))


@contextmanager
def _reading(runs: WatchedRuns, every: float) -> Iterator[_Reading]:
    reading = _Reading(runs, every)
    thread = threading.Thread(target=reading, name="tbx-top", daemon=True)
    thread.start()
    try:
        yield reading
    finally:
        reading.stopped.set()
        thread.join(_LONGEST_JOIN)


class _Messages(io.TextIOBase):
    """Keeps the last line that is written: a warning would disturb the screen."""

    last = ""

    def write(self, text: str) -> int:
        lines = [line for line in text.splitlines() if line.strip()]
        if lines:
            self.last = printable(lines[-1])
        return len(text)


@contextmanager
def _messages() -> Iterator[_Messages]:
    """Keeps warnings off the screen."""
    messages = _Messages()
    with redirect_stderr(messages):
        yield messages
