"""Writes queued events to a file on a background thread, until it is closed or the process ends."""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from tbx_callbacks.runs.records import frame
from tbx_callbacks.writers.backlog import Backlog, value_count
from tbx_callbacks.writers.event_file import EventFile

logger = logging.getLogger(__name__)

_WRITE_BYTES = 1 << 20  # maximum per write
_RETRY_SECS = 0.5
_SETTLE_SECS = 0.005
_CLOSE_SECS = 60.0
_CLOSE_ATTEMPTS = 2
_DROP_SECS = 1.0
_IDLE_SECS = 60.0

# The threads that have not ended, for the end of the process and for forked children. Both hooks exist once a process,
# because neither Python's list of exit functions nor its list of fork hooks ever shrinks.
_live: set[WriterThread] = set()
_exiting = threading.Event()


class WriterThread:
    """Writes events from one queue to one file, and ends when it is closed. See `EventWriter`.

    The thread refers to this object and not to the event writer, so that a writer that nobody uses can be freed.

    Args:
        logdir: folder of the event file, for messages.
        open_file: opens a new file in the folder.
        file: the open file; None to open one when there are events.
        flush_secs: maximum delay of the sync after an event was written.
        max_bytes: memory for events that cannot be written.
    """

    def __init__(
        self,
        logdir: str,
        open_file: Callable[[], EventFile],
        file: EventFile | None,
        *,
        flush_secs: float,
        max_bytes: int,
    ) -> None:
        self._logdir, self._open_file, self._file = logdir, open_file, file
        self._flush_secs, self._max_bytes = min(flush_secs, threading.TIMEOUT_MAX), max_bytes
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._backlog = Backlog(max_bytes)
        self._in_flight: list[Any] = []
        self._added = self._written = self._synced = self._flush_target = 0
        self._attempts = self._unsynced_values = 0
        self._failing = self._retrying = self._is_slow = self._is_dropping = False
        self._closing = self._is_reported = self._has_lost = False
        self._sync_thread: threading.Thread | None = None
        self._thread = threading.Thread(target=self._work, name="tbx-event-writer", daemon=True)

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child of the process that writes; it has no such thread, and writes nothing."""
        return os.getpid() != self._pid

    def start(self) -> None:
        """Starts the thread.

        Raises:
            RuntimeError: the process ends, or has as many threads as the system allows.
        """
        if _exiting.is_set():
            raise RuntimeError("the process ends")
        _live.add(self)
        try:
            self._thread.start()
        except RuntimeError:
            _live.discard(self)
            raise

    def run(self) -> None:
        """Writes all queued events on the calling thread, and closes the file."""
        self._closing = True
        self._work()

    def add(self, event: Any) -> bool:
        """Queues an event; never waits for the disk. Returns False after `close`."""
        if self.is_inherited:
            return True
        with self._changed:
            if self._closing:
                return False
            lost = self._backlog.lost_values
            self._backlog.add(event)
            self._added += 1
            self._count_written()  # the backlog may have dropped other events
            drops_now, self._is_dropping = not self._is_dropping, self._is_dropping or self._backlog.lost_values > lost
            self._changed.notify_all()
        if drops_now and self._is_dropping:
            limit = self._max_bytes / 2**20
            logger.warning("old values for %s are dropped: %g MiB already wait; raise max_mib", self._logdir, limit)
        return True

    def settle(self) -> None:
        """Waits at most 5 ms until all events are in the file, where even a kill of the process cannot lose them.

        If the disk was too slow, it does not wait again until the thread has caught up.
        """
        if self._failing or self.is_inherited:
            return
        with self._changed:
            if self._is_slow and len(self._backlog) > 1:
                return
            self._is_slow = not self._changed.wait_for(lambda: self._written >= self._added, _SETTLE_SECS)

    def flush(self, timeout: float) -> bool:
        """Waits until all events added before are written and synced; returns False if that fails or takes longer."""
        if self.is_inherited:
            return True
        with self._changed:
            target = self._flush_target = self._added
            attempts = self._attempts
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._synced >= target or self._attempts > attempts, timeout)
            return self._synced >= target

    def close(self) -> None:
        """Writes all events and frees the thread and the file; waits at most a minute for a store that hangs."""
        self._request_end()
        self._wait_for_end(time.monotonic() + _CLOSE_SECS)

    def drop(self) -> None:
        """Ends like `close`, but waits only briefly, because a garbage collection on any thread may call it."""
        if self.is_inherited or _exiting.is_set():
            return
        self._request_end()
        if threading.current_thread() not in (self._thread, self._sync_thread):
            self._thread.join(_DROP_SECS)  # afterwards it ends by itself

    def release_in_child(self) -> None:
        """Closes the file in a forked process. It takes no lock: another thread of the parent may have held it."""
        if self._file is not None:
            self._file.release_in_child()
            self._file = None

    def _request_end(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _wait_for_end(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            _live.discard(self)  # the exit of the process does not wait again
            self._report_lost()

    def _report_lost(self) -> None:
        with self._changed:
            self._backlog.give_up()
            lost = self._backlog.lost_values + self._unsynced_values + sum(map(value_count, self._in_flight))
            is_reported, self._is_reported = self._is_reported, True
        if lost and not is_reported:
            logger.warning("%d values could not be written to %s and are lost", lost, self._logdir)

    # -- background thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        synced_at = -math.inf  # the first event at once: a store without a bucket or a password fails early
        attempts = 0
        while True:
            with self._changed:
                self._wait(synced_at + self._flush_secs)
                self._in_flight, closing = self._backlog.take(_WRITE_BYTES), self._closing
                must_sync = self._failing or closing or self._flush_target > self._synced
            try:
                self._write()
                if len(self._backlog) == 0 and (must_sync or time.monotonic() >= synced_at + self._flush_secs):
                    self._sync(in_parallel=not must_sync)
                    synced_at = time.monotonic()
            except Exception as error:  # OSError, MemoryError, or any exception of a remote store's client
                self._on_failure(error)
            attempts += closing and self._retrying
            if closing and (attempts == _CLOSE_ATTEMPTS or (len(self._backlog) == 0 and not self._retrying)):
                break
        self._end()

    def _end(self) -> None:
        if self._sync_thread is not None:
            self._sync_thread.join()
        if self._file is not None:
            try:
                self._file.close()
            except Exception as error:  # everything was synced before, or is counted as lost
                logger.debug("cannot close %s: %s", self._file.path, error)
        self._file = None
        _live.discard(self)
        self._report_lost()

    def _wait(self, sync_at: float) -> None:
        """Waits for events, a flush request, the time to sync, or the next retry."""
        if self._retrying:
            target = self._flush_target
            self._changed.wait_for(lambda: self._closing or self._flush_target > target, _RETRY_SECS)
            return
        idle = self._written == self._synced
        self._changed.wait_for(
            lambda: len(self._backlog) or self._closing or self._flush_target > self._synced,
            # An idle thread looks up now and then: a garbage collection on this thread could not wake it.
            _IDLE_SECS if idle else max(0.0, sync_at - time.monotonic()),
        )

    def _write(self) -> None:
        """Writes the events in flight; those that are left when it raises are not written."""
        records = self._frames()
        while records:
            file = self._get_file()
            try:
                stored = file.write(records)
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
                self._lose(0, error)
                stored = 0
                del records[0]
            del records[:stored]
            with self._changed:
                if file.volatile:
                    self._unsynced_values += sum(map(value_count, self._in_flight[:stored]))
                del self._in_flight[:stored]
                self._retrying = False
                self._count_written()
                self._changed.notify_all()

    def _frames(self) -> list[bytes]:
        """Returns the records of the events in flight; loses events that cannot be serialized."""
        records: list[bytes] = []
        while len(records) < len(self._in_flight):
            try:
                records.append(frame(self._in_flight[len(records)].SerializeToString()))
            except Exception as error:  # larger than 2 GiB, or than the memory
                self._lose(len(records), error)
        return records

    def _lose(self, index: int, error: Exception) -> None:
        """Counts an event in flight as lost: no retry can write it."""
        with self._changed:
            event = self._in_flight.pop(index)
            self._backlog.lost_values += value_count(event)
            self._count_written()
            self._changed.notify_all()
            is_first, self._has_lost = not self._has_lost, True
        if is_first:  # the closing line counts the others
            logger.warning(
                "step %d of %s is lost: its %d values cannot be written: %s; log less at once, or raise ulimit -f",
                event.step,
                self._logdir,
                value_count(event),
                error,
            )

    def _get_file(self) -> EventFile:
        if self._file is None:
            self._file = self._open_file()
        return self._file

    def _count_written(self) -> None:
        self._written = self._added - len(self._backlog) - len(self._in_flight)

    def _sync(self, *, in_parallel: bool) -> None:
        with self._changed:
            written, is_synced = self._written, self._written == self._synced and not self._failing
        file = self._file
        if is_synced or (
            in_parallel and file is not None and not file.volatile and self._sync_in_thread(file, written)
        ):
            return
        if file is not None:  # without a file, all events were lost
            file.sync()
        self._after_sync(written)

    def _after_sync(self, written: int) -> None:
        with self._changed:
            self._synced, self._unsynced_values = max(self._synced, written), 0
            recovered, self._failing, self._retrying = self._failing, False, False
            self._is_dropping &= not recovered
            self._changed.notify_all()
        if recovered and self._file is not None:
            logger.warning("writing to %s works again", self._file.path)

    def _sync_in_thread(self, file: EventFile, written: int) -> bool:
        """Syncs on a separate thread: on a busy disk it takes seconds, and writing must continue.

        Returns:
            False if no thread can start.
        """
        if self._sync_thread is not None and self._sync_thread.is_alive():
            return True

        def sync() -> None:
            try:
                file.sync()
            except Exception as error:
                self._on_failure(error, has_events=False)
                return
            with self._changed:
                self._synced = max(self._synced, written)
                self._changed.notify_all()

        self._sync_thread = threading.Thread(target=sync, name="tbx-event-sync", daemon=True)
        with contextlib.suppress(RuntimeError):
            self._sync_thread.start()
            return True
        self._sync_thread = None
        return False

    def _on_failure(self, error: Exception, *, has_events: bool = True) -> None:
        """Keeps the events for a retry; `has_events` is False when a separate sync failed."""
        if not self._failing:
            logger.warning(
                "cannot write to %s: %s; training continues; values wait in memory (up to %g MiB) until it works",
                self._file.path if self._file is not None else self._logdir,
                error,
                self._max_bytes / 2**20,
            )
        with self._changed:
            if has_events:
                self._backlog.put_back(self._in_flight)
                self._in_flight = []
            self._failing = self._retrying = True
            self._attempts += 1
            self._changed.notify_all()


def _close_all() -> None:
    """Closes the writers that are open when the process ends; later ones write without a thread."""
    _exiting.set()
    threads, deadline = list(_live), time.monotonic() + _CLOSE_SECS
    for thread in threads:
        thread._request_end()
    for thread in threads:
        thread._wait_for_end(deadline)


def _release_in_child() -> None:
    for thread in list(_live):
        thread.release_in_child()
    _live.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
