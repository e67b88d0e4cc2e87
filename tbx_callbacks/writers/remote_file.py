"""Uploads an event file to S3 or Google Cloud Storage."""

from __future__ import annotations

import contextlib
from typing import Any


class RemoteFile:
    """A file in a remote store, opened by tensorboardX; each sync uploads the whole file.

    Args:
        path: address of the file.
        opened: a file-like object with `write` and `flush`.
        header: first record.
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
            self._file.closed = True  # the last sync was the last upload; this stops the destructor from uploading
