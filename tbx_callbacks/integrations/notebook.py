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
            line = (
                f"tbx_callbacks writes this run to {log_dir}; view it with: tensorboard --logdir {shlex.quote(log_dir)}"
            )
            print(line, file=sys.stderr, flush=True)


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
