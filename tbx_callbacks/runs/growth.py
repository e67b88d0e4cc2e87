"""Tells whether the logs below folders have grown, without reading them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from tbx_callbacks.runs.folders import is_remote
from tbx_callbacks.runs.formats import is_log
from tbx_callbacks.runs.reader import walk_folders

Sizes = dict[str, tuple[int, int]]


def sizes(logdirs: Sequence[str]) -> Sizes:
    """Sizes and times of the logs below local folders. Remote folders always count as changed."""
    if any(map(is_remote, logdirs)):
        return {"": (int.from_bytes(os.urandom(7), "big"), 0)}
    found: Sizes = {}
    for logdir in logdirs:
        paths = [logdir] if os.path.isfile(logdir) else []
        for folder, _, names in walk_folders(logdir):
            paths += (os.path.join(folder, name) for name in names if is_log(name))
        for path in paths:
            with contextlib.suppress(OSError):  # deleted since, or a link to nothing
                status = os.stat(path)
                found[path] = status.st_size, status.st_mtime_ns
    return found
