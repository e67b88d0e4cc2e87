"""Chooses and checks the folders of runs; one run is one folder."""

from __future__ import annotations

import glob
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

logger = logging.getLogger(__name__)

JSON_LINES_FILE = "metrics.jsonl"
"""The file of the writer `json_lines` in a run's folder."""
AXES = ("samples", "tokens", "epochs")
"""Axes that a run can be written against, in addition to its steps."""
_TIME = "%b%d_%H-%M-%S"


@dataclass(frozen=True)
class RunLocation:
    """A run's folder. `resume` means that it has steps that are trained again; TensorBoard must hide the old ones."""

    folder: str
    resume: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", absolute(self.folder))


def absolute(folder: str | os.PathLike[str]) -> str:
    """Returns the absolute path of a local folder: a later change of the working directory has no effect on it."""
    folder = os.fsdecode(folder).removeprefix("file://")
    return folder if is_remote(folder) else os.path.abspath(folder)


def never_taken(_: str) -> bool:
    """Returns False: no other writer is known."""
    return False


def fresh_folder(parent: str, is_taken: Callable[[str], bool] = never_taken) -> str:
    """Returns a new path under `parent`, named by time and host as TensorBoard writers do; creates nothing.

    Args:
        parent: the folder of runs.
        is_taken: whether another writer writes to a folder, or will.
    """
    return unused(os.path.join(absolute(parent), _default_name()), is_taken)


def is_default_name(name: str) -> bool:
    """Whether a TensorBoard writer on this host may give this name to a new folder."""
    time_of_name = name.removesuffix("_" + socket.gethostname())
    try:
        return time_of_name != name and bool(time.strptime("2024" + time_of_name, "%Y" + _TIME))
    except ValueError:
        return False


def _default_name() -> str:
    return time.strftime(_TIME) + "_" + socket.gethostname()


def unused(folder: str, is_taken: Callable[[str], bool] = never_taken) -> str:
    """Returns `folder` if it is free and contains no run, else the first such of `folder_2`, `folder_3`, ..."""
    candidate, n = folder, 1
    while holds_run(candidate) or is_taken(candidate):
        n += 1
        candidate = f"{folder.rstrip('/')}_{n}"
    return candidate


def beside(folder: str, is_taken: Callable[[str], bool] = never_taken) -> str:
    """Returns `folder`, or with a warning an unused one next to it, if it contains a run or another writer has it."""
    chosen = unused(folder, is_taken)
    if chosen != folder:
        problem = "is the folder of another writer of this training" if is_taken(folder) else "already contains a run"
        logger.warning("%s %s; writing this run to %s", folder, problem, chosen)
    return chosen


def holds_run(folder: str) -> bool:
    """Whether a local folder contains event files, or the file of the writer `json_lines`."""
    has_events = any(glob.iglob(os.path.join(glob.escape(folder), "*tfevents*")))
    return has_events or os.path.exists(os.path.join(folder, JSON_LINES_FILE))


def belongs(folder: str, wanted: str) -> bool:
    """Whether a folder is the wanted one, a numbered one (`wanted_2`), or below one of these (a trial)."""
    folder, wanted = (absolute(path) for path in (folder, wanted))
    rest = folder.removeprefix(wanted) if folder.startswith(wanted) else None
    return rest is not None and re.fullmatch(r"(_\d+)?(/.*)?", rest) is not None


def by_axis(folder: str, axis: str) -> str:
    """Returns the folder for a run's scalars against another axis than its steps."""
    return f"{folder.rstrip('/')}/by_{axis}"


def is_second_series(folder: str, folders: Collection[str]) -> bool:
    """Whether a folder has the scalars of another of these folders against another axis."""
    parent = os.path.dirname(folder.rstrip("/"))
    return parent in folders and any(folder == by_axis(parent, axis) for axis in AXES)


def is_remote(folder: str) -> bool:
    """Whether a folder is remote, such as `s3://bucket/run`; contents of remote folders are not checked."""
    return "://" in folder
