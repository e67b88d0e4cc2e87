"""A report that follows a training."""

from __future__ import annotations

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
    """Writes the report whenever event files have grown, until `wait` returns True; yields what came of it.

    A folder that holds no run yet is waited for.
    """
    before: Sizes | None = None
    while True:
        now = _sizes(logdirs)
        if now != before:
            before = now
            try:
                yield write()
            except UnreadableError as error:
                yield error
        if wait():
            return


def _sizes(logdirs: Sequence[str]) -> Sizes:
    """The event files below local folders; remote ones always count as changed."""
    if any("://" in top for top in logdirs):
        return {"": int.from_bytes(os.urandom(7), "big")}
    found = (path for top in logdirs for path in Path(top).rglob("*tfevents*"))
    return {str(path): path.stat().st_size for path in found}
