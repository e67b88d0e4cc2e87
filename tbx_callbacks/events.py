"""Re-exports names of `tbx_callbacks.runs`. Deprecated: import from there."""

from __future__ import annotations

import warnings

from tbx_callbacks.runs import Progress, Run, UnreadableError, find_runs, read_run

__all__ = ["Progress", "Run", "UnreadableError", "find_runs", "read_run"]

warnings.warn(
    "tbx_callbacks.events is deprecated; import from tbx_callbacks.runs instead", DeprecationWarning, stacklevel=2
)
