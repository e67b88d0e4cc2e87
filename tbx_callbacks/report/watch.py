"""Updates a report while a training runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tbx_callbacks.runs.formats import UnreadableError
from tbx_callbacks.runs.growth import Sizes, sizes


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
        current = sizes(logdirs)
        if current != previous:
            previous = current
            try:
                yield write()
            except UnreadableError as error:
                yield error
        if wait():
            return
