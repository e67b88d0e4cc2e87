"""Defines `EventWriter`, which writes event files behind tensorboardX's interface, without waiting for the disk."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

from tbx_callbacks.writers.event_file import EventFile
from tbx_callbacks.writers.writer_thread import WriterThread


class EventWriter:
    """Writes TensorBoard event files behind tensorboardX's five-method interface.

    An event is in the file shortly after `add_event`, and on the disk (fsync) within `flush_secs`. `flush` returns when
    all events added before it are on the disk. While the disk cannot be written, events wait in at most `max_mib` of
    memory, and the writer retries. One warning reports the start of such a failure, one its end, and one at the end the
    number of lost values, if any.

    The first event starts a thread, `close` or the end of the process ends it. A writer that is no longer used writes
    its events and ends its thread too. A writer that is open when the process forks writes nothing in the child.

    Args:
        logdir: folder of the event file, for `get_logdir`.
        open_file: opens a file in the folder; raises OSError if that is impossible.
        flush_secs: maximum delay of the fsync (the upload for remote folders) after an event was written.
        max_mib: memory for events that cannot be written.
    """

    _thread: WriterThread | None = None

    def __init__(
        self, logdir: str, open_file: Callable[[], EventFile], *, flush_secs: float = 2.0, max_mib: float = 64.0
    ) -> None:
        self._logdir, self._open_file = logdir, open_file
        self._options: dict[str, Any] = {"flush_secs": float(flush_secs), "max_bytes": int(max_mib * 2**20)}
        self._starting, self._pid = threading.Lock(), os.getpid()

    def __del__(self) -> None:
        if self._thread is not None:
            self._thread.drop()

    def get_logdir(self) -> str:
        """Returns the folder of the event file."""
        return self._logdir

    def open(self) -> None:
        """Opens the file before the first event.

        Raises:
            OSError: the folder or the file cannot be created, or no thread can start.
        """
        file = self._open_file()
        thread = WriterThread(self._logdir, self._open_file, file, **self._options)
        try:
            thread.start()
        except RuntimeError as error:
            file.close()
            if threading.main_thread().is_alive():  # else the process ends, and events are written without a thread
                raise OSError(errno.EAGAIN, str(error)) from error
        else:
            self._thread = thread

    def reopen(self) -> None:
        """Does nothing: the next event opens a file."""

    def add_event(self, event: Any) -> None:
        """Queues an event; never waits for the disk. After `close` it opens the file again."""
        thread = self._thread
        if thread is None or not thread.add(event):
            self._start_with(event)

    def settle(self) -> None:
        """Waits at most 5 ms until all events are in the file, where even a kill of the process cannot lose them."""
        if (thread := self._thread) is not None:
            thread.settle()

    def flush(self, timeout: float = 10.0) -> bool:
        """Waits until every event added before is in the file and fsynced.

        Returns:
            False if the disk cannot be written, or not within `timeout` seconds.
        """
        thread = self._thread
        return thread is None or thread.flush(timeout)

    def close(self) -> None:
        """Writes all events, ends the thread and closes the file."""
        if (thread := self._thread) is not None and not thread.is_inherited:
            self._thread = None
            thread.close()

    def _start_with(self, event: Any) -> None:
        if self._pid != os.getpid():  # another thread of the parent may have held the lock when this process was forked
            self._starting, self._pid = threading.Lock(), os.getpid()
        with self._starting:
            if self._thread is not None and self._thread.add(event):
                return  # another thread was faster
            thread = WriterThread(self._logdir, self._open_file, None, **self._options)
            thread.add(event)
            try:
                thread.start()
            except RuntimeError:
                thread.run()
            else:
                self._thread = thread
