"""The rule seam."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Protocol

from tbx_callbacks.diagnosis.finding import Finding
from tbx_callbacks.diagnosis.tags import Need
from tbx_callbacks.series import Run


class Rule(Protocol):
    """What can be wrong with a run. A frozen dataclass whose fields are its thresholds; a pure function of the run.

    It is silent on a run that lacks its tags or has too few points, and is called as well while a run grows.

    - `id`: its name, in RULES, in YAML and in findings.
    - `needs`: what it cannot do without. The first one is what it judges: with a field `min_points` it stays silent
      below that many points of it.
    - `source`: a paper or documentation.
    """

    id: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]]
    source: ClassVar[str]

    def __call__(self, run: Run) -> Iterator[Finding]:
        """What is found; nothing where nothing is wrong."""
