"""Tells the user where the run is written: a line on stderr, or a link in a notebook."""

from __future__ import annotations

import html
import os
import shlex
import sys
from contextlib import suppress

from tbx_callbacks.runs.folders import is_remote

QUIET = "TBX_CALLBACKS_QUIET"
"""Environment variable that switches the message off."""


def in_notebook() -> bool:
    """Whether this process is a notebook kernel (not a terminal, and not IPython in one)."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


def announce(log_dir: str) -> None:
    """Says where the run is written and how to view it, unless `TBX_CALLBACKS_QUIET` is set in the environment."""
    if os.environ.get(QUIET, "") not in ("", "0"):
        return
    if in_notebook():
        _show_link(log_dir)
    else:
        with suppress(OSError, ValueError):  # stderr is closed
            folder = _short(log_dir)
            line = (
                f"tbx_callbacks writes this run to {folder}; view it with: tensorboard --logdir {shlex.quote(folder)}"
            )
            print(line, file=sys.stderr, flush=True)


def _short(log_dir: str) -> str:
    """Returns a folder below the working directory without the path of the latter."""
    relative = log_dir if is_remote(log_dir) else os.path.relpath(log_dir)
    return log_dir if relative.startswith(os.pardir) else relative


def _show_link(log_dir: str) -> None:
    """Displays a link to the run's folder and the TensorBoard commands."""
    from IPython.display import HTML, display

    if is_remote(log_dir):
        folder, parent = log_dir, log_dir.rpartition("/")[0]
    else:
        folder, parent = os.path.relpath(log_dir), os.path.relpath(os.path.dirname(os.path.abspath(log_dir)))
    folder, parent = html.escape(folder), html.escape(parent)
    display(
        HTML(
            f'log directory: <a href="{folder}" target="_blank">{folder}</a>; open TensorBoard:'
            f" <code>%load_ext tensorboard</code> <code>%tensorboard --logdir {parent}</code>"
        )
    )
