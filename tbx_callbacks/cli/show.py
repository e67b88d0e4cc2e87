"""Returns summaries of runs for JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from tbx_callbacks.cli.doctor import plain_finding
from tbx_callbacks.cli.outputs import finite, header
from tbx_callbacks.summary import Around, RunSummary


def summary_as_json(summary: RunSummary) -> dict[str, Any]:
    """Returns a summary as plain values; numbers that are not finite are texts."""
    return {
        **header("show"),
        "run": summary.name,
        "folder": summary.folder,
        "verdict": dataclasses.asdict(summary.diagnosis.verdict),
        "findings": [plain_finding(finding) for finding in summary.diagnosis.findings],
        "last_step": summary.last_step,
        "status": summary.status or None,
        "seconds": summary.seconds,
        "source": summary.source or None,
        "curves": [finite(dataclasses.asdict(curve)) for curve in summary.curves],
        "settings": finite(dict(summary.settings)),
        "families": dict(summary.families),
        "bad_steps": list(summary.bad_steps),
    }


def around_as_json(around: Around) -> dict[str, Any]:
    """Returns the values around a step as plain values; numbers that are not finite are texts."""
    return {
        **header("around"),
        "run": around.name,
        "folder": around.folder,
        "step": around.step,
        "steps": list(around.steps),
        "curves": finite({tag: list(values) for tag, values in around.curves.items()}),
        "jumps": [finite(dataclasses.asdict(jump)) for jump in around.jumps],
        "findings": [plain_finding(finding) for finding in around.findings],
        "has_batch": around.has_batch,
    }
