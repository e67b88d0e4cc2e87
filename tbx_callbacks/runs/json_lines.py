"""Appends lines of JSON, each of which belongs to a step, to files beside a run; cuts and reads them.

A reader sees complete objects only. The end of a file that is being written, or that a kill cut off, is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

OBJECTS = ("histogram", "text", "hparams", "status")
"""The keys of values that are no numbers: `{"weights/layer": {"histogram": {...}}}`."""
_MOST_BYTES = 1 << 28  # of one file that is read
_LONGEST = 1 << 24  # of one line
_STEP = re.compile(rb'\{"step":(\d{1,18})[,}]')


def line_of(step: int, **fields: Any) -> bytes:
    """Returns a line; its step comes first."""
    return json.dumps({"step": step, **fields}, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def append(path: str, lines: bytes) -> None:
    """Appends complete lines; after an error the file is as it was, as far as it can be.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "ab") as file:
        size = file.tell()
        try:
            file.write(lines if _ends_with_line(path, size) else b"\n" + lines)
            file.flush()
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


def size_of(path: str) -> int:
    """Returns the size of a file in bytes; 0 if it is absent."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _ends_with_line(path: str, size: int) -> bool:
    if not size:
        return True
    with open(path, "rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"


def cut(path: str, step: int) -> None:
    """Removes the lines of later steps than `step`, and the file if nothing is left; a file that is absent stays so.

    The new file takes the place of the old one at once.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(path, "rb") as old, open(temporary, "wb") as new:
            for line in old:
                match = _STEP.match(line)
                if match and int(match[1]) <= step and line.endswith(b"\n"):
                    new.write(line)
            is_empty = not new.tell()
        os.replace(temporary, path)
        if is_empty:
            os.remove(path)
    except FileNotFoundError:
        pass
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def read(path: str, on_unreadable: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yields the lines of a file that are objects with a step; calls `on_unreadable` for each other one.

    Raises:
        OSError: the file cannot be read.
    """
    for fields in read_objects(path, on_unreadable, _MOST_BYTES):
        if type(fields.get("step")) is int:
            yield fields
        else:
            on_unreadable()


def read_objects(
    path: str, on_unreadable: Callable[[], None], most_bytes: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yields the lines of a file that are JSON objects; calls `on_unreadable` for each other one.

    A last line without a line break counts if it is complete. `most_bytes` ends the reading; None reads everything.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        yield from _lines(file, on_unreadable, most_bytes)


def _lines(file: BinaryIO, on_unreadable: Callable[[], None], most_bytes: int | None) -> Iterator[dict[str, Any]]:
    while (line := file.readline(_LONGEST)) and (most_bytes is None or file.tell() <= most_bytes):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            yield fields
        elif line.endswith(b"\n") or len(line) == _LONGEST:  # else it is still being written
            on_unreadable()
