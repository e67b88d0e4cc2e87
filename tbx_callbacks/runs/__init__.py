"""Runs on disk: `read_run` reads a folder of event files, `find_runs` finds the runs below a folder."""

from __future__ import annotations

from tbx_callbacks.runs.reader import Progress, UnreadableError, find_runs, read_run
from tbx_callbacks.runs.series import Run, Series

__all__ = ["Progress", "Run", "Series", "UnreadableError", "find_runs", "read_run"]
