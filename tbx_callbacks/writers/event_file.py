"""Files of TFRecords that stay readable whatever happens: a record that could not be written whole is cut off again."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import crc32c

logger = logging.getLogger(__name__)

_count = itertools.count()


class EventFile(Protocol):
    """What the event writer's thread writes to. Methods raise OSError (or what a remote store raises) on failure."""

    path: str
    volatile: bool
    """Whether what was written but not synced is lost when the process ends."""

    def write(self, records: bytes) -> None:
        """Appends whole records, or nothing at all if it raises."""

    def sync(self) -> None:
        """Returns when everything written is stored."""

    def close(self) -> None:
        """Lets go of the file."""


class LocalFile:
    """A file on a disk.

    When the file was deleted, or has reached the largest size that the system allows, writing goes on in a new file of
    the same folder: TensorBoard reads them as one run.

    Args:
        folder: made if it is missing.
        header: the first record of each file.
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
            logger.warning("%s was deleted; what comes now goes to %s", deleted, self.path)
        try:
            self._append(records)
        except OSError as error:
            if error.errno != errno.EFBIG or self._size <= len(self._header):
                raise
            self._reopen()
            self._append(records)

    def sync(self) -> None:
        """May run beside `write`: works on a descriptor of its own."""
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
        """Path, descriptor and size of a new file that holds the header."""
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
        opened = self._open()
        with self._swap:
            os.close(self._descriptor)
            self.path, self._descriptor, self._size = opened

    def _append(self, records: bytes) -> None:
        if os.fstat(self._descriptor).st_size > self._size:
            os.ftruncate(self._descriptor, self._size)  # what a failed write left behind
        try:
            _write_all(self._descriptor, records)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(records)


class RemoteFile:
    """A file of a remote store, through what tensorboardX opens for it; each sync uploads the whole file.

    Args:
        path: address of the file.
        opened: a file-like object with `write` and `flush`.
        header: the first record.
    """

    volatile = True

    def __init__(self, path: str, opened: Any, header: bytes) -> None:
        self.path = path
        self._file = opened
        self._file.write(header)

    def write(self, records: bytes) -> None:
        self._file.write(records)

    def sync(self) -> None:
        self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            self._file.closed = True  # all that could be uploaded is: its destructor need not try once more


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def file_name() -> str:
    """A name that no other writer takes, and that sorts after those of writers that started earlier."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{rest:09d}.{os.getpid()}.{next(_count)}"


def frame(data: bytes) -> bytes:
    """TFRecord framing: length, masked CRC32C of the length, data, masked CRC32C of the data."""
    header = struct.pack("<Q", len(data))
    return b"".join((header, struct.pack("<I", _masked_crc(header)), data, struct.pack("<I", _masked_crc(data))))


def _masked_crc(data: bytes) -> int:
    crc: int = crc32c.crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
