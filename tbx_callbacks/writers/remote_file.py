"""Uploads an event file to a remote store through fsspec."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial


class RemoteFile:
    """A file in a remote store (`s3://`, `gs://`, `az://`, `hf://`, ...); each sync uploads the whole file.

    Args:
        path: address of the file.
        header: first record.

    Raises:
        ImportError: the store needs a package that is not installed.
        OSError: there is no such store.
    """

    volatile = True

    def __init__(self, path: str, header: bytes) -> None:
        import fsspec  # not for local files, because its import takes time

        scheme = path.partition("://")[0]
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            extra = f"; run: pip install tbx-callbacks[{scheme}]" if scheme in ("s3", "gs") else ""
            raise ImportError(f"{error}{extra}") from error
        except ValueError as error:
            raise OSError(f"a remote store must be one that fsspec knows, got {scheme}://: {error}") from error
        self.path, self._records = path, bytearray(header)
        self._connect = partial(fsspec.core.url_to_fs, path)  # fsspec keeps the connection

    def write(self, records: Sequence[bytes]) -> int:
        self._records += b"".join(records)
        return len(records)

    def sync(self) -> None:
        store, address = self._connect()
        store.pipe_file(address, bytes(self._records))

    def close(self) -> None:
        """Does nothing: the last sync was the last upload."""

    def release_in_child(self) -> None:
        """Does nothing: there is no handle."""
