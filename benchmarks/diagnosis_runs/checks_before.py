"""Runs the checks before a training, where the callback has them."""

from __future__ import annotations

from typing import Any

from benchmarks.diagnosis_runs.cases import Logs


def preflight(monitor: Any, batches: Any, evaluation: Any, logs: Logs) -> tuple[tuple[str, str], ...]:
    """Returns rule and severity of each finding; nothing if not everything is switched on."""
    if logs != "full" or not hasattr(monitor, "preflight"):
        return ()
    return tuple((finding.id, finding.severity) for finding in monitor.preflight(batches, evaluation=evaluation) or ())
