"""Rules and findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from tbx_callbacks.rules.needs import Need
from tbx_callbacks.runs.series import Run

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


class Rule(Protocol):
    """What can be wrong with a run. A frozen dataclass whose fields are its thresholds; a pure function of the run.

    It is silent on a run that lacks its tags or has too few points, and is called as well while a run grows.

    - `id`: its name, in RULES, in YAML and in findings.
    - `needs`: what it cannot do without. The first one is what it judges: with a field `min_points` it stays silent
      below that many points of it.
    - `source`: a paper or documentation.
    - `compares_with_start`: it compares with the start of the run, so it cannot judge a resumed run whose earlier
      points cannot be read.
    - `only_notes`: its findings are notes, and notes may trigger an action. Notes of other rules never do.
    """

    id: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]]
    source: ClassVar[str]
    compares_with_start: ClassVar[bool] = False
    only_notes: ClassVar[bool] = False

    def __call__(self, run: Run) -> Iterator[Finding]:
        """What is found; nothing where nothing is wrong."""
