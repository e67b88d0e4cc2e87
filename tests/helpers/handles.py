"""Lists the handles and threads of this process, to compare them before and after."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path


def handles() -> list[str]:
    """The targets of all open descriptors of this process."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            targets.append(os.readlink(descriptor))
        except FileNotFoundError:  # the descriptor that lists the folder
            continue
    return sorted(targets)


Resources = tuple[list[str], list[threading.Thread]]


def left_open(before: Resources) -> list[str]:
    """The descriptors and threads that were not there before. What an earlier test left may be collected meanwhile."""
    new = (Counter(now) - Counter(then) for now, then in zip(resources(), before, strict=True))
    return [str(resource) for counts in new for resource in counts.elements()]


def resources() -> Resources:
    """The open descriptors and the running threads of this process."""
    return handles(), threading.enumerate()
