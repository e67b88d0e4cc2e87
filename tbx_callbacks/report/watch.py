"""Updates a report while a training runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tbx_callbacks.runs.reader import UnreadableError

Sizes = dict[str, int]


def follow(
    logdirs: Sequence[str],
    write: Callable[[], Path],
    wait: Callable[[], bool],
) -> Iterator[Path | UnreadableError]:
    """Writes the report whenever event files have grown, until `wait` returns True.

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
    """Sizes of the event files below local folders. Remote folders always count as changed."""
    if any("://" in logdir for logdir in logdirs):
        return {"": int.from_bytes(os.urandom(7), "big")}
    sizes: Sizes = {}
    for logdir in logdirs:
        for folder, _, names in os.walk(logdir):
            for path in (os.path.join(folder, name) for name in names if "tfevents" in name):
                with contextlib.suppress(OSError):  # deleted since, or a link to nothing
                    sizes[path] = os.stat(path).st_size
    return sizes
