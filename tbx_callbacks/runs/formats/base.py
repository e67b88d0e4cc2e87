"""Defines `LogFormat`, the interface of the formats that runs are read from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tbx_callbacks.runs.series import Run

Progress = Callable[[int, int], None]


class UnreadableError(ValueError):
    """A folder contains no readable run; the message names the rule, the value and the remedy."""


class LogFormat(Protocol):
    """A format of logs on the local disk."""

    files: str
    """The names of its files, for messages."""
    is_history: bool = False
    """Whether a trainer keeps it beside the log of a run: any other log below its folder replaces it."""
    is_partial: bool = False
    """Whether it may hold only a few numbers, such as the results of an evaluation: it replaces no other log."""
    parts: re.Pattern[str] | None = None
    """The names of folders that belong to the run of the folder above, such as `checkpoint-500`."""

    def find(self, folder: str, below: Sequence[str], names: Sequence[str]) -> Mapping[str, str]:
        """Returns the runs that a folder holds: name (empty for the folder itself) -> path to pass to `read`.

        Args:
            folder: the folder.
            below: names of the folders in it.
            names: names of the files in it, sorted.
        """

    def accepts(self, file: str) -> bool:
        """Whether a file that was named by its path is a run of this format."""

    def read(self, path: str, progress: Progress | None = None) -> Run:
        """Reads a run.

        Args:
            path: a path of `find`, or one that `accepts` returned True for.
            progress: called with the bytes read so far and the total.

        Raises:
            UnreadableError: it holds nothing that can be read. What cannot be read beside other values is left out;
                `Run.left_out` names it.
        """
