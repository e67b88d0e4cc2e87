"""Lists the handles and threads of this process, to compare them before and after."""

from __future__ import annotations

import os
import threading
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


def resources() -> tuple[list[str], list[threading.Thread]]:
    """The open descriptors and the running threads of this process."""
    return handles(), threading.enumerate()
