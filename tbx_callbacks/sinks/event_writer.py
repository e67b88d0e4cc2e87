"""An event file written by a thread: the training loop hands over an event and never waits for the disk."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import socket
import struct
import threading
import time
from collections import deque
from pathlib import Path
from typing import Protocol

import crc32c

logger = logging.getLogger(__name__)

_count = itertools.count()


class Event(Protocol):
    """The part of the Event protocol buffer that is used here."""

    wall_time: float

    def SerializeToString(self) -> bytes:  # noqa: N802
        ...


class EventWriter:
    """Writes TensorBoard event files behind tensorboardX's five-method interface.

    An event is in the file moments after `add_event`, and on the disk (fsync) within `flush_secs`. `flush` returns when
    all events added before it are on the disk. The file's name is unique: two writers never share one. A child process
    made by fork writes nothing.
    """

    def __init__(self, logdir: str, flush_secs: float = 2.0) -> None:
        self._logdir = logdir
        self._flush_secs = flush_secs
        self._pid = os.getpid()
        self._queue: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._added = self._stored = 0
        self._flush_wanted = 0
        self._closed = True
        self._failed = False
        self.reopen()

    def get_logdir(self) -> str:
        """The folder that holds the event file."""
        return self._logdir

    def add_event(self, event: Event) -> None:
        """Queues an event; never blocks on the disk."""
        if self._closed or os.getpid() != self._pid:
            return
        record = event.SerializeToString()
        with self._changed:
            self._queue.append(record)
            self._added += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """Returns when every event added before is in the file and fsynced."""
        if self._closed or os.getpid() != self._pid:
            return
        with self._changed:
            target = self._flush_wanted = self._added
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stored >= target or self._failed)

    def close(self) -> None:
        """Flushes, ends the thread and closes the file; later events are ignored until `reopen`."""
        if self._closed or os.getpid() != self._pid:
            return
        self.flush()
        self._closed = True
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        atexit.unregister(self.close)

    def reopen(self) -> None:
        """Opens a new file in the same folder after `close`."""
        if not self._closed:
            return
        Path(self._logdir).mkdir(parents=True, exist_ok=True)
        self.path = os.path.join(self._logdir, _file_name())
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="tbx-event-writer", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _work(self) -> None:
        synced_at, written = time.monotonic(), self._stored
        while True:
            with self._changed:
                dirty = written > self._stored
                self._changed.wait_for(
                    lambda: self._queue or self._closed or self._flush_wanted > self._stored,
                    timeout=max(0.0, synced_at + self._flush_secs - time.monotonic()) if dirty else None,
                )
                records, closing, wanted = list(self._queue), self._closed, self._flush_wanted
                self._queue.clear()
            try:
                if records:
                    _write_all(self._descriptor, b"".join(map(_frame, records)))
                    written += len(records)
                due = time.monotonic() >= synced_at + self._flush_secs
                if written > self._stored and (due or closing or wanted > self._stored):
                    os.fsync(self._descriptor)
                    synced_at = time.monotonic()
                    with self._changed:
                        self._stored = written
                        self._changed.notify_all()
            except OSError as error:
                logger.warning("cannot write to %s: %s; training goes on, nothing more is logged", self.path, error)
                with self._changed:
                    self._failed = self._closed = True
                    self._changed.notify_all()
            if closing or self._failed:
                os.close(self._descriptor)
                return


def _file_name() -> str:
    now = time.time_ns()
    seconds, rest = divmod(now, 10**9)
    # Seconds and host as everywhere; the rest makes it unique and keeps the files of one folder in order of start.
    return f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{rest:09d}.{os.getpid()}.{next(_count)}"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _frame(data: bytes) -> bytes:
    """TFRecord framing: length, masked CRC32C of the length, data, masked CRC32C of the data."""
    header = struct.pack("<Q", len(data))
    return b"".join((header, struct.pack("<I", _masked_crc(header)), data, struct.pack("<I", _masked_crc(data))))


def _masked_crc(data: bytes) -> int:
    crc: int = crc32c.crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
