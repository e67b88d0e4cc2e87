"""Reads and makes the records of event files (the TFRecord format)."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator

import crc32c

_HEADER = struct.Struct("<QI")  # length of the data, and its checksum
_CHECKSUM = struct.Struct("<I")
RECORD_BYTES = _HEADER.size + _CHECKSUM.size
"""Bytes per record in addition to its data."""


def local_records(path: str) -> Iterator[bytes]:
    """Yields the data of each record, up to the first one that is incomplete or damaged, whatever the file contains.

    A length is compared with the size of the file before anything is allocated.

    Raises:
        OSError: the path is no regular file, which is never opened, or it cannot be read.
    """
    _check_regular(os.stat(path).st_mode)
    # Without waiting, should a pipe take the place of the file.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb", buffering=1 << 20) as file:
        _check_regular(os.fstat(file.fileno()).st_mode)
        position, size = 0, 0
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            end = position + RECORD_BYTES + length
            if end > size:
                size = os.fstat(file.fileno()).st_size  # the file of a live run grows
            if masked_crc(header[:8]) != checksum or end > size:
                return
            data, tail = file.read(length), file.read(_CHECKSUM.size)
            if len(tail) < _CHECKSUM.size or _CHECKSUM.unpack(tail)[0] != masked_crc(data):
                return
            yield data
            position = end


def frame(data: bytes) -> bytes:
    """Returns a record: length, masked CRC32C of the length, data, masked CRC32C of the data."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _CHECKSUM.pack(masked_crc(length)), data, _CHECKSUM.pack(masked_crc(data))))


def masked_crc(data: bytes) -> int:
    """The checksum of the TFRecord format: CRC-32C, rotated by 15 bits, plus a constant."""
    crc: int = crc32c.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def why_unreadable(path: str, error: Exception) -> str:
    """The reason why a file cannot be read, in a few words."""
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return "it is a link to nothing"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError("it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError("it is a pipe, a socket or a device, which is not opened")
