"""Folders of runs: one run is one folder."""

from __future__ import annotations

import glob
import logging
import os
import re
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass

logger = logging.getLogger(__name__)

AXES = ("samples", "tokens", "epochs")
"""Axes against which a run can be written, beside its steps."""


@dataclass(frozen=True)
class RunLocation:
    """A run's folder. `purge`: it holds steps that are trained again, which TensorBoard shall hide."""

    folder: str
    resume: bool = False


def fresh_folder(parent: str) -> str:
    """A new folder's path under `parent`, named by time and host as TensorBoard writers do; nothing is created."""
    return unused(os.path.join(parent, time.strftime("%b%d_%H-%M-%S") + "_" + socket.gethostname()))


def unused(folder: str) -> str:
    """`folder` itself if it holds no run, or else the first of `folder_2`, `folder_3`, ... that holds none."""
    candidate, n = folder, 1
    while holds_run(candidate):
        n += 1
        candidate = f"{folder.rstrip('/')}_{n}"
    return candidate


def beside(folder: str) -> str:
    """`folder`, or an unused one beside it where it holds a run already, which a warning says."""
    chosen = unused(folder)
    if chosen != folder:
        logger.warning("%s holds a run already; this one goes to %s", folder, chosen)
    return chosen


def holds_run(folder: str) -> bool:
    """Whether a local folder holds event files."""
    return any(glob.iglob(os.path.join(glob.escape(folder), "*tfevents*")))


def belongs(folder: str, wanted: str) -> bool:
    """Whether a folder is the wanted one, one beside it (`wanted_2`), or one below it (a trial's)."""
    folder, wanted = (path if is_remote(path) else os.path.abspath(path) for path in (folder, wanted))
    rest = folder.removeprefix(wanted) if folder.startswith(wanted) else None
    return rest is not None and re.fullmatch(r"(_\d+)?(/.*)?", rest) is not None


def by_axis(folder: str, axis: str) -> str:
    """Where a run is written against another axis than its steps."""
    return f"{folder.rstrip('/')}/by_{axis}"


def is_second_series(folder: str, folders: Collection[str]) -> bool:
    """Whether it is another run of these folders, written against another axis."""
    parent = os.path.dirname(folder.rstrip("/"))
    return parent in folders and any(folder == by_axis(parent, axis) for axis in AXES)


def is_remote(folder: str) -> bool:
    """Whether it is an address of a store, such as `s3://bucket/run`; what such folders hold is not looked up."""
    return "://" in folder
