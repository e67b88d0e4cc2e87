"""Displays the run's folder in a notebook."""

from __future__ import annotations

import html
import os
import sys

from tbx_callbacks.runs.folders import is_remote


def in_notebook() -> bool:
    """Whether this process is a notebook kernel (not a terminal, and not IPython in one)."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


def show_link(log_dir: str) -> None:
    """Displays a link to the run's folder and the TensorBoard commands; does nothing outside a notebook."""
    if not in_notebook():
        return
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
