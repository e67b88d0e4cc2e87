"""Writes an event file on a background thread, so that the training loop does not wait for the disk."""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from tbx_callbacks.writers.backlog import Backlog
from tbx_callbacks.writers.event_file import EventFile, frame

logger = logging.getLogger(__name__)

_WRITE_BYTES = 1 << 20  # maximum per write
_RETRY_SECS = 0.5
_SETTLE_SECS = 0.005
_CLOSE_SECS = 60.0


class EventWriter:
    """Writes TensorBoard event files behind tensorboardX's five-method interface.

    An event is in the file shortly after `add_event`, and on the disk (fsync) within `flush_secs`. `flush` returns when
    all events added before it are on the disk. While the disk cannot be written, events wait in at most `max_mib` of
    memory, and the writer retries. One warning reports the start of such a failure, one its end, and one at the end the
    number of lost values, if any. A forked child process writes nothing.

    Args:
        logdir: folder of the event file, for `get_logdir`.
        open_file: opens a new file in the folder; raises OSError if that is impossible.
        flush_secs: maximum delay of the fsync (the upload for remote folders) after an event was written.
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
        """Returns the folder of the event file."""
        return self._logdir

    def reopen(self) -> None:
        """Opens a new file in the same folder after `close`.

        Raises:
            OSError: the folder or the file cannot be created.
        """
        if not self._closed:
            return
        self._file = self._open_file()
        self._backlog = Backlog(self._max_bytes)
        self._added = self._written = self._synced = self._flush_target = 0
        self._in_flight = self._in_flight_values = self._attempts = self._unsynced_values = 0
        self._failing = self._retrying = self._is_slow = False
        self._closed = False
        self._sync_thread: threading.Thread | None = None
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
            self._count_written()  # the backlog may have dropped this event or others
            self._changed.notify_all()

    def settle(self) -> None:
        """Waits at most 5 ms until all events are in the file, where even a kill of the process cannot lose them.

        If the disk was too slow, it does not wait again until the writer has caught up.
        """
        if self._closed or self._failing or os.getpid() != self._pid:
            return
        with self._changed:
            if self._is_slow and len(self._backlog) > 1:
                return
            self._is_slow = not self._changed.wait_for(lambda: self._written >= self._added, _SETTLE_SECS)

    def flush(self, timeout: float = 10.0) -> bool:
        """Waits until every event added before is in the file and fsynced.

        Returns:
            False if the disk cannot be written, or not within `timeout` seconds.
        """
        if self._closed or os.getpid() != self._pid:
            return True
        with self._changed:
            target = self._flush_target = self._added
            attempts = self._attempts
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._synced >= target or self._attempts > attempts, timeout)
            return self._synced >= target

    def close(self) -> None:
        """Flushes, ends the thread and closes the file; later events are ignored until `reopen`."""
        if self._closed or os.getpid() != self._pid:
            return
        atexit.unregister(self.close)
        self.flush(_CLOSE_SECS)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_RETRY_SECS + 1.0)  # a store that hangs must not block the exit of the process
        with self._changed:
            self._backlog.give_up()
            lost = self._backlog.lost_values + self._unsynced_values + self._in_flight_values
        if lost:
            logger.warning("%d values could not be written to %s and are lost", lost, self._logdir)

    # -- background thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        synced_at = -math.inf  # the first event at once: a store without a bucket or a password fails early
        while True:
            with self._changed:
                self._wait(synced_at + self._flush_secs)
                events, closing = self._backlog.take(_WRITE_BYTES), self._closed
                self._in_flight, self._in_flight_values = len(events), sum(len(event.summary.value) for event in events)
                must_sync = self._failing or closing or self._flush_target > self._synced
            try:
                if events:
                    self._file.write(b"".join(frame(event.SerializeToString()) for event in events))
                    self._after_write()
                    events = []
                if len(self._backlog) == 0 and (must_sync or time.monotonic() >= synced_at + self._flush_secs):
                    if must_sync or self._file.volatile:
                        self._sync()
                    else:
                        self._sync_in_thread()
                    synced_at = time.monotonic()
            except Exception as error:  # OSError, or any exception of a remote store's client
                self._on_failure(error, events, closing=closing)
            if closing and (self._retrying or len(self._backlog) == 0):
                self._file.close()
                return

    def _wait(self, sync_at: float) -> None:
        """Waits for events, a flush request, the time to sync, or the next retry."""
        if self._retrying:
            target = self._flush_target
            self._changed.wait_for(lambda: self._closed or self._flush_target > target, _RETRY_SECS)
            return
        idle = self._written == self._synced
        self._changed.wait_for(
            lambda: len(self._backlog) or self._closed or self._flush_target > self._synced,
            None if idle else max(0.0, sync_at - time.monotonic()),
        )

    def _after_write(self) -> None:
        with self._changed:
            if self._file.volatile:
                self._unsynced_values += self._in_flight_values
            self._in_flight = self._in_flight_values = 0
            self._retrying = False
            self._count_written()
            self._changed.notify_all()

    def _count_written(self) -> None:
        self._written = self._added - len(self._backlog) - self._in_flight

    def _sync(self) -> None:
        with self._changed:
            written, is_synced = self._written, self._written == self._synced and not self._failing
        if is_synced:
            return
        self._file.sync()
        with self._changed:
            self._synced, self._unsynced_values = written, 0
            recovered, self._failing, self._retrying = self._failing, False, False
            self._changed.notify_all()
        if recovered:
            logger.warning("writing to %s works again", self._file.path)

    def _sync_in_thread(self) -> None:
        """Syncs in a separate thread: on a busy disk it takes seconds, and writing must continue."""
        if self._sync_thread is not None and self._sync_thread.is_alive():
            return
        written = self._written

        def sync() -> None:
            try:
                self._file.sync()
            except OSError as error:
                self._on_failure(error, None, closing=self._closed)
                return
            with self._changed:
                self._synced = max(self._synced, written)
                self._changed.notify_all()

        self._sync_thread = threading.Thread(target=sync, name="tbx-event-sync", daemon=True)
        self._sync_thread.start()

    def _on_failure(self, error: Exception, events: list[Any] | None, *, closing: bool) -> None:
        if not self._failing and not closing:
            logger.warning(
                "cannot write to %s: %s; training continues; values wait in memory (up to %g MiB) until it works",
                self._file.path,
                error,
                self._max_bytes / 2**20,
            )
        with self._changed:
            if events is not None:  # None when a separate sync failed
                self._backlog.put_back(events)
                self._in_flight = self._in_flight_values = 0
            self._failing = self._retrying = True
            self._attempts += 1
            self._changed.notify_all()
