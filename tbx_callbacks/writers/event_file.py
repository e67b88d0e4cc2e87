"""Writes TFRecord files that stay readable: partially written records are truncated."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Protocol

import crc32c

logger = logging.getLogger(__name__)

_count = itertools.count()


class EventFile(Protocol):
    """A file for the event writer's thread. Methods raise OSError (or a remote store's exception) on failure."""

    path: str
    volatile: bool
    """Whether records that are written but not synced are lost when the process ends."""

    def write(self, records: bytes) -> None:
        """Appends complete records, or nothing if it raises."""

    def sync(self) -> None:
        """Returns when all written records are stored."""

    def close(self) -> None:
        """Closes the file."""


class LocalFile:
    """A file on a local disk.

    If the file is deleted or reaches the system's maximum file size, a new file in the same folder takes over.
    TensorBoard reads both as one run.

    Args:
        folder: folder of the file; created if it is missing.
        header: first record of each file.
    """

    volatile = False

    def __init__(self, folder: str, header: bytes) -> None:
        self._folder, self._header = folder, header
        self._swap = threading.Lock()
        self.path, self._descriptor, self._size = self._open()

    def write(self, records: bytes) -> None:
        if os.fstat(self._descriptor).st_nlink == 0:
            deleted = self.path
            self._reopen()
            logger.warning("%s was deleted; later values go to %s", deleted, self.path)
        try:
            self._append(records)
        except OSError as error:
            if error.errno != errno.EFBIG or self._size <= len(self._header):
                raise
            self._reopen()
            self._append(records)

    def sync(self) -> None:
        """Syncs through a separate descriptor, so that it can run in parallel with `write`."""
        with self._swap:
            descriptor = os.dup(self._descriptor)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        with self._swap:
            os.close(self._descriptor)

    def _open(self) -> tuple[str, int, int]:
        """Creates a file with the header; returns its path, descriptor and size."""
        Path(self._folder).mkdir(parents=True, exist_ok=True)
        path = os.path.join(self._folder, file_name())
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        try:
            _write_all(descriptor, self._header)
        except OSError:
            os.close(descriptor)
            os.unlink(path)
            raise
        return path, descriptor, len(self._header)

    def _reopen(self) -> None:
        new_file = self._open()
        with self._swap:
            os.close(self._descriptor)
            self.path, self._descriptor, self._size = new_file

    def _append(self, records: bytes) -> None:
        if os.fstat(self._descriptor).st_size > self._size:
            os.ftruncate(self._descriptor, self._size)  # remove the rest of a failed write
        try:
            _write_all(self._descriptor, records)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(records)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def file_name() -> str:
    """Returns a unique file name that sorts after those of writers that started earlier."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{rest:09d}.{os.getpid()}.{next(_count)}"


def frame(data: bytes) -> bytes:
    """Returns a TFRecord: length, masked CRC32C of the length, data, masked CRC32C of the data."""
    header = struct.pack("<Q", len(data))
    return b"".join((header, struct.pack("<I", _masked_crc(header)), data, struct.pack("<I", _masked_crc(data))))


def _masked_crc(data: bytes) -> int:
    crc: int = crc32c.crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
