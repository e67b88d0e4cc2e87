"""What a run wrote before it was resumed: rules compare with its beginning."""

from __future__ import annotations

import glob
import os

from tbx_callbacks.series import Run

# These compare with the beginning of a run; without it they would take the first steps after a checkpoint for it.
OF_THE_BEGINNING = frozenset(
    {"decayed_early", "divergence", "learning_rate_too_high", "loss_spike", "no_warmup", "plateau", "underfitting"}
)
_MOST = 128 * 2**20  # bytes of event files that are read again, in a few seconds


def read_history(folder: str) -> Run | None:
    """The run in a folder; None where it cannot be read here: without TensorBoard, from a store, or too large."""
    files = glob.glob(os.path.join(glob.escape(folder), "*tfevents*"))
    try:
        if not files or sum(map(os.path.getsize, files)) > _MOST:
            return None
        from tbx_callbacks.events import read_run

        return read_run(folder)
    except (ImportError, OSError, ValueError):
        return None
