"""Folders of runs."""

from __future__ import annotations

import os
import socket
import time


def fresh_folder(parent: str) -> str:
    """A new folder's path under `parent`, named by time and host as TensorBoard writers do; nothing is created."""
    name = time.strftime("%b%d_%H-%M-%S") + "_" + socket.gethostname()
    path, n = os.path.join(parent, name), 1
    while os.path.exists(path):
        n += 1
        path = os.path.join(parent, f"{name}_{n}")
    return path
