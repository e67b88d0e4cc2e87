"""What a rule concludes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # worst first


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run, or worth knowing.

    `id` is the rule's name. `tags`, `steps` (where it shows; the first is where it begins) and `numbers` are the
    evidence. `means` says in one sentence what it means, `advice` what to try, `source` where that is known from.
    """

    id: str
    severity: Severity
    tags: tuple[str, ...]
    steps: tuple[int, ...]
    means: str
    advice: str
    source: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts findings: worst first, then those that begin first."""
        return SEVERITIES.index(self.severity), self.steps[0] if self.steps else 0
