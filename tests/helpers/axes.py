"""Defines a metric set over several axes, and reads the runs of the other axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.runs import Run

AXES_SET: dict[str, Any] = {
    "axis": ["step", "samples", "tokens", "epochs"],
    "metrics": ["loss", {"weight_norm": {"by": "total"}}, "weight_histogram"],
}


def along(folder: Any, axis: str) -> Run:
    """The series of a run against another axis than its steps."""
    return Run(Path(folder) / f"by_{axis}")
