"""Writes TFRecord files that stay readable: partially written records are truncated."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import re
import socket
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Protocol

logger = logging.getLogger(__name__)

_count = itertools.count()
_NAME_ATTEMPTS = 10
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)  # a path with such an error leads to no file
_UNUSABLE = {errno.EFBIG: None, errno.ESTALE: "is stale", errno.EBADF: "was closed by other code"}
"""Errors after which only a new file can go on, with the reason for the warning, if there is one."""


class EventFile(Protocol):
    """A file for the event writer's thread. Methods raise OSError (or a remote store's exception) on failure."""

    path: str
    volatile: bool
    """Whether records that are written but not synced are lost when the process ends."""

    def write(self, records: Sequence[bytes]) -> int:
        """Appends the first of these records, at least one; returns their number, or raises if it appends none.

        EFBIG means that the first record will never fit.
        """

    def sync(self) -> None:
        """Returns when all written records are stored."""

    def close(self) -> None:
        """Closes the file."""

    def release_in_child(self) -> None:
        """Closes the handle that a forked process inherited; takes no lock and writes nothing."""


class LocalFile:
    """A file on a local disk.

    A new file in the same folder takes over if the path no longer leads to this file (it or its folder was moved,
    deleted, replaced or unmounted), if other code has changed or closed it, or if it has the system's maximum size.
    TensorBoard reads all of them as one run. The file is shortened only to remove this writer's own unfinished records.

    Args:
        folder: folder of the file; created if it is missing.
        header: first record of each file.
        closed: a file that this process has closed. If it still is as it was left, and the last one of the folder, this
            object goes on with it.
    """

    volatile = False

    def __init__(self, folder: str, header: bytes, closed: LocalFile | None = None) -> None:
        self._folder, self._header, self._pid = folder, header, os.getpid()
        self._handle = threading.Lock()  # the descriptor is not closed while another thread syncs it
        if closed is None or not self._go_on_with(closed):
            self._open()

    def write(self, records: Sequence[bytes]) -> int:
        reason = self._reason_to_leave()
        if reason is not None:
            self._continue_in_new_file(reason)
        try:
            return self._append(records)
        except OSError as error:
            is_new = self._size <= len(self._header)
            if error.errno not in _UNUSABLE or (error.errno == errno.EFBIG and is_new):
                raise
            self._continue_in_new_file(_UNUSABLE[error.errno])
            return self._append(records)

    def sync(self) -> None:
        """Syncs; another thread may call it in parallel with `write`."""
        with self._handle:
            os.fsync(self._descriptor)

    def close(self) -> None:
        with self._handle:
            self._close_descriptor()

    def release_in_child(self) -> None:
        with contextlib.suppress(OSError):
            self._close_descriptor()

    # -- opening and closing -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Creates a file with the header, and leaves the current one unchanged if that fails."""
        try:
            path, descriptor = self._create()
        except FileNotFoundError:
            os.makedirs(self._folder, exist_ok=True)
            path, descriptor = self._create()
        try:
            _write_all(descriptor, self._header)
        except BaseException:
            with contextlib.suppress(Exception):
                os.close(descriptor)
            with contextlib.suppress(Exception):
                os.unlink(path)
            raise
        with self._handle:
            self.path, self._descriptor, self._size = path, descriptor, len(self._header)
            self._unfinished = b""  # bytes of a failed write that may follow the last complete record
            self._identity = self._is_found = None
            with contextlib.suppress(Exception):  # a file system that cannot tell: the file is not compared
                own = os.fstat(descriptor)
                self._identity = own.st_dev, own.st_ino
                self._is_found = os.path.samestat(own, os.stat(path))

    def _go_on_with(self, closed: LocalFile) -> bool:
        """Opens a closed file again; returns False if it is not the one that was left."""
        is_open = closed._descriptor >= 0  # another thread still closes it
        if closed._pid != self._pid or is_open or closed._unfinished or not closed._is_found:
            return False
        try:
            if max(os.listdir(self._folder), key=_order, default="") != os.path.basename(closed.path):
                return False  # TensorBoard does not come back to a file after it has read a later one
            descriptor = os.open(closed.path, os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return False
        self.path, self._descriptor, self._size = closed.path, descriptor, closed._size
        self._unfinished, self._identity, self._is_found = b"", closed._identity, True
        with contextlib.suppress(OSError):
            own = os.fstat(descriptor)
            if (own.st_dev, own.st_ino) == self._identity and own.st_size == self._size:
                return True
        os.close(descriptor)
        return False

    def _create(self) -> tuple[str, int]:
        existing: list[str] = []
        with contextlib.suppress(Exception):  # it matters only after the clock was set back
            existing = os.listdir(self._folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        for attempt in itertools.count(1):
            path = os.path.join(self._folder, file_name(existing))
            try:
                return path, os.open(path, flags, 0o644)
            except FileExistsError:  # of a process with the same number on a host with the same name
                if attempt == _NAME_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _continue_in_new_file(self, reason: str | None) -> None:
        with contextlib.suppress(Exception):  # it may be gone
            self.sync()
        left, descriptor, identity = self.path, self._descriptor, self._identity
        self._open()
        with contextlib.suppress(Exception):
            _close(descriptor, identity)
        if reason is not None:
            logger.warning("%s %s; later values go to %s", left, reason, self.path)

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        _close(descriptor, self._identity)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _append(self, records: Sequence[bytes]) -> int:
        data = b"".join(records)
        self._unfinished = data
        try:
            _write_all(self._descriptor, data)
        except Exception:
            stored = self._keep_complete(records)
            if stored == 0:
                raise
            return stored
        self._size += len(data)
        self._unfinished = b""
        return len(records)

    def _keep_complete(self, records: Sequence[bytes]) -> int:
        """Keeps the complete records of a failed write and removes the rest; returns their number."""
        try:
            tail = os.pread(self._descriptor, len(self._unfinished), self._size)
        except Exception:
            return 0  # the next write looks again
        if not self._unfinished.startswith(tail):
            return 0
        ends = list(itertools.accumulate(map(len, records)))
        stored = bisect_right(ends, len(tail))
        complete = ends[stored - 1] if stored else 0
        self._size += complete
        self._unfinished = tail[complete:]
        if self._unfinished:
            self._remove_unfinished(len(self._unfinished))
        return stored

    def _remove_unfinished(self, size: int) -> bool:
        """Removes the bytes after the last complete record if a failed write of this writer left them there."""
        try:
            if not self._unfinished.startswith(os.pread(self._descriptor, size, self._size)):
                return False
            os.ftruncate(self._descriptor, self._size)
        except Exception:
            return False
        self._unfinished = b""
        return True

    # -- checks ------------------------------------------------------------------------------------------------------

    def _reason_to_leave(self) -> str | None:
        if self._identity is None:
            return "cannot be repaired after an error" if self._unfinished else None
        own = _own_stat(self._descriptor, self._identity)
        if own is None:
            return "was closed by other code, or is out of reach"
        elsewhere = self._reason_of_path(own) if self._is_found else None
        if elsewhere is not None:
            return elsewhere
        grown = own.st_size - self._size
        if grown < 0:
            return "was shortened by other code"
        if grown > 0 and not self._remove_unfinished(grown):
            return "was changed by other code, or cannot be repaired after an error"
        return None

    def _reason_of_path(self, own: os.stat_result) -> str | None:
        try:
            found = os.stat(self.path)
        except Exception as error:
            if getattr(error, "errno", None) in _GONE:
                return "was moved" if own.st_nlink else "was deleted"
            return None  # the path cannot be followed now, but the file is open
        return None if os.path.samestat(found, own) else "was replaced by another file"


def _own_stat(descriptor: int, identity: tuple[int, int]) -> os.stat_result | None:
    """Returns the status of an open file; None if other code has closed it, even if its number was used again."""
    try:
        own = os.fstat(descriptor)
    except Exception:
        return None
    return own if (own.st_dev, own.st_ino) == identity else None


def _close(descriptor: int, identity: tuple[int, int] | None) -> None:
    """Closes a descriptor, unless its number belongs to another file by now."""
    if descriptor >= 0:
        with contextlib.suppress(Exception):
            own = os.fstat(descriptor)
            if identity is not None and (own.st_dev, own.st_ino) != identity:
                return
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        if written == 0:
            raise OSError(errno.EIO, "the file system accepts no more bytes")
        view = view[written:]


def file_name(existing: Iterable[str] = ()) -> str:
    """Returns a unique file name that sorts after the existing ones, also if the clock was set back."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    end = f"{socket.gethostname()}.{rest:09d}.{os.getpid()}.{next(_count)}"
    last = max(existing, key=_order, default="")
    if not _order(last):
        last = ""
    if f"{_PREFIX}{seconds:010d}.{end}" <= last:
        seconds = int(last.removeprefix(_PREFIX)[:10]) + 1
    return f"{_PREFIX}{seconds:010d}.{end}"


_PREFIX = "events.out.tfevents."


def _order(name: str) -> str:
    """Returns a key by which event files sort in time; empty for other files."""
    return name if re.match(r"events\.out\.tfevents\.\d{10}\.", name) else ""
