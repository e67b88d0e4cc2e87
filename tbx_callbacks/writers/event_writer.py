"""An event file written by a thread: the training loop hands over an event and never waits long for the disk."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from tbx_callbacks.writers.backlog import Backlog
from tbx_callbacks.writers.event_file import EventFile, frame

logger = logging.getLogger(__name__)

_WRITE_BYTES = 1 << 20  # written at once
_RETRY_SECS = 0.5
_SETTLE_SECS = 0.005
_CLOSE_SECS = 60.0


class EventWriter:
    """Writes TensorBoard event files behind tensorboardX's five-method interface.

    An event is in the file moments after `add_event`, and on the disk (fsync) within `flush_secs`. `flush` returns when
    all events added before it are on the disk. While the disk cannot be written, events wait in at most `max_mib` of
    memory and writing is tried again; one warning says when that starts, one line when it is over, and one at the end
    says how many values were lost, if any. A child process made by fork writes nothing.

    Args:
        logdir: folder, for `get_logdir`.
        open_file: opens a new file in it; raises OSError if that is impossible.
        flush_secs: how long written events may wait for fsync (for an upload, where the folder is remote).
        max_mib: memory for events that cannot be written.
    """

    def __init__(
        self, logdir: str, open_file: Callable[[], EventFile], *, flush_secs: float = 2.0, max_mib: float = 64.0
    ) -> None:
        self._logdir, self._open_file = logdir, open_file
        self._flush_secs, self._max_bytes = flush_secs, int(max_mib * 2**20)
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._closed = True
        self.reopen()

    def get_logdir(self) -> str:
        """The folder that holds the event file."""
        return self._logdir

    def reopen(self) -> None:
        """Opens a new file in the same folder after `close`.

        Raises:
            OSError: the folder or the file cannot be made.
        """
        if not self._closed:
            return
        self._file = self._open_file()
        self._backlog = Backlog(self._max_bytes)
        self._added = self._written = self._stored = self._wanted = 0
        self._flying = self._flying_values = self._attempts = self._unsynced_values = 0
        self._failing = self._delayed = self._slow = False
        self._closed = False
        self._aside: threading.Thread | None = None
        self._thread = threading.Thread(target=self._work, name="tbx-event-writer", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def add_event(self, event: Any) -> None:
        """Queues an event; never waits for the disk."""
        if self._closed or os.getpid() != self._pid:
            return
        with self._changed:
            self._backlog.add(event)
            self._added += 1
            self._count_written()  # it may have been dropped, or others for it
            self._changed.notify_all()

    def settle(self) -> None:
        """Waits until all events are in the file, 5 ms at most: then even a kill of the process does not lose them.

        On a disk that was too slow for that it does not wait again before it has caught up.
        """
        if self._closed or self._failing or os.getpid() != self._pid:
            return
        with self._changed:
            if self._slow and len(self._backlog) > 1:
                return
            self._slow = not self._changed.wait_for(lambda: self._written >= self._added, _SETTLE_SECS)

    def flush(self, timeout: float = 10.0) -> bool:
        """Returns when every event added before is in the file and fsynced.

        Returns:
            False if that was not possible: the disk cannot be written, or not within `timeout` seconds.
        """
        if self._closed or os.getpid() != self._pid:
            return True
        with self._changed:
            target = self._wanted = self._added
            attempts = self._attempts
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stored >= target or self._attempts > attempts, timeout)
            return self._stored >= target

    def close(self) -> None:
        """Flushes, ends the thread and closes the file; later events are ignored until `reopen`."""
        if self._closed or os.getpid() != self._pid:
            return
        atexit.unregister(self.close)
        self.flush(_CLOSE_SECS)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_RETRY_SECS + 1.0)  # a store that hangs must not keep the process from ending
        with self._changed:
            self._backlog.give_up()
            lost = self._backlog.lost_values + self._unsynced_values + self._flying_values
        if lost:
            logger.warning("%d values could not be written to %s and are lost", lost, self._logdir)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        synced_at = time.monotonic()
        while True:
            with self._changed:
                self._wait(synced_at + self._flush_secs)
                events, closing = self._backlog.take(_WRITE_BYTES), self._closed
                self._flying, self._flying_values = len(events), sum(len(event.summary.value) for event in events)
                wanted = self._failing or closing or self._wanted > self._stored
            try:
                if events:
                    self._file.write(b"".join(frame(event.SerializeToString()) for event in events))
                    self._wrote()
                    events = []
                if len(self._backlog) == 0 and (wanted or time.monotonic() >= synced_at + self._flush_secs):
                    if wanted or self._file.volatile:
                        self._sync()
                    else:
                        self._sync_aside()
                    synced_at = time.monotonic()
            except Exception as error:  # OSError, or whatever a remote store's client raises
                self._failed(error, events, closing=closing)
            if closing and (self._delayed or len(self._backlog) == 0):
                self._file.close()
                return

    def _wait(self, sync_at: float) -> None:
        """Waits for events, for a wish to flush, for the time to sync, or for the next try."""
        if self._delayed:
            wanted = self._wanted
            self._changed.wait_for(lambda: self._closed or self._wanted > wanted, _RETRY_SECS)
            return
        idle = self._written == self._stored
        self._changed.wait_for(
            lambda: len(self._backlog) or self._closed or self._wanted > self._stored,
            None if idle else max(0.0, sync_at - time.monotonic()),
        )

    def _wrote(self) -> None:
        with self._changed:
            if self._file.volatile:
                self._unsynced_values += self._flying_values
            self._flying = self._flying_values = 0
            self._delayed = False
            self._count_written()
            self._changed.notify_all()

    def _count_written(self) -> None:
        self._written = self._added - len(self._backlog) - self._flying

    def _sync(self) -> None:
        with self._changed:
            written, nothing = self._written, self._written == self._stored and not self._failing
        if nothing:
            return
        self._file.sync()
        with self._changed:
            self._stored, self._unsynced_values = written, 0
            recovered, self._failing, self._delayed = self._failing, False, False
            self._changed.notify_all()
        if recovered:
            logger.warning("writing to %s works again", self._file.path)

    def _sync_aside(self) -> None:
        """Syncs in a thread of its own: on a busy disk that takes seconds, and events must go on into the file."""
        if self._aside is not None and self._aside.is_alive():
            return
        written = self._written

        def sync() -> None:
            try:
                self._file.sync()
            except OSError as error:
                self._failed(error, None, closing=self._closed)
                return
            with self._changed:
                self._stored = max(self._stored, written)
                self._changed.notify_all()

        self._aside = threading.Thread(target=sync, name="tbx-event-sync", daemon=True)
        self._aside.start()

    def _failed(self, error: Exception, events: list[Any] | None, *, closing: bool) -> None:
        if not self._failing and not closing:
            logger.warning(
                "cannot write to %s: %s; training goes on, and values wait in memory (at most %g MiB) until it works",
                self._file.path,
                error,
                self._max_bytes / 2**20,
            )
        with self._changed:
            if events is not None:  # of the writing thread
                self._backlog.put_back(events)
                self._flying = self._flying_values = 0
            self._failing = self._delayed = True
            self._attempts += 1
            self._changed.notify_all()
