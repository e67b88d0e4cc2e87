"""Folders of runs: one run is one folder."""

from __future__ import annotations

import glob
import os
import socket
import time


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


def holds_run(folder: str) -> bool:
    """Whether a local folder holds event files."""
    return any(glob.iglob(os.path.join(glob.escape(folder), "*tfevents*")))
