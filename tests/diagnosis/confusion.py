"""Trains everything that is planted and tells what was found of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from planted import FAULTS, HEALTHY
from trainings import train

from tbx_callbacks.diagnosis import Diagnosis, diagnose
from tbx_callbacks.events import read_run


@dataclass(frozen=True)
class Row:
    """A training, the rules that should speak, and the diagnosis."""

    name: str
    expected: tuple[str, ...]
    diagnosis: Diagnosis

    @property
    def found(self) -> tuple[str, ...]:
        return tuple(finding.id for finding in self.diagnosis.findings)


def judged(name: str, folder: Path) -> Row:
    """Trains one of FAULTS or HEALTHY in a new folder and judges what it logged."""
    if name in FAULTS:
        fault = FAULTS[name]
        train(folder, fault.plan, before=fault.before)
        return Row(name, tuple(fault.symptoms), diagnose(read_run(folder)))
    plan, before = HEALTHY[name]
    train(folder, plan, before=before)
    return Row(name, (), diagnose(read_run(folder)))
