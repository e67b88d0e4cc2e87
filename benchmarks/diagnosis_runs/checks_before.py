"""Collects the findings of the checks before a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tbx_callbacks.integrations.preflight import Preflight


@dataclass(frozen=True)
class Checks:
    """Rule and severity of each finding before the training; `failed` is the error if the checks did not end."""

    findings: tuple[tuple[str, str], ...] = ()
    failed: str = ""


def checked(preflight: Callable[[], Preflight]) -> Checks:
    """Runs the checks; a training goes on without them if they fail."""
    try:
        found = preflight().diagnosis.findings
    except Exception as error:
        return Checks(failed=f"{type(error).__name__}: {error}".partition("\n")[0][:200])
    return Checks(tuple((finding.id, finding.severity) for finding in found))
