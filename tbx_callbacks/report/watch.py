"""Updates a report while a training runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tbx_callbacks.runs.formats import UnreadableError, is_log

Sizes = dict[str, tuple[int, int]]


def follow(
    logdirs: Sequence[str],
    write: Callable[[], Path],
    wait: Callable[[], bool],
) -> Iterator[Path | UnreadableError]:
    """Writes the report whenever logs have grown, until `wait` returns True.

    Yields the path of the report, or the error if a folder contains no run yet.
    """
    previous: Sizes | None = None
    while True:
        current = _sizes(logdirs)
        if current != previous:
            previous = current
            try:
                yield write()
            except UnreadableError as error:
                yield error
        if wait():
            return


def _sizes(logdirs: Sequence[str]) -> Sizes:
    """Sizes and times of the logs below local folders. Remote folders always count as changed."""
    if any("://" in logdir for logdir in logdirs):
        return {"": (int.from_bytes(os.urandom(7), "big"), 0)}
    sizes: Sizes = {}
    for logdir in logdirs:
        if os.path.isfile(logdir):
            sizes[logdir] = _change(logdir)
        for folder, _, names in os.walk(logdir):
            for path in (os.path.join(folder, name) for name in names if is_log(name)):
                with contextlib.suppress(OSError):  # deleted since, or a link to nothing
                    sizes[path] = _change(path)
    return sizes


def _change(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
