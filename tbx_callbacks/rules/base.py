"""Defines `Rule`, the interface of rules, and `Finding`, their result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import ClassVar, Literal, Protocol

from tbx_callbacks.rules.required_series import Need
from tbx_callbacks.runs.series import Run

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # worst first


class Action(IntFlag):
    """What a finding may request of the training: a stop, a checkpoint, or both. Each trainer carries it out."""

    NONE = 0
    STOP = 1
    CHECKPOINT = 2


ACTIONS = {str(flag.name).lower(): flag for flag in Action if flag}
"""The single actions, by their names in YAML."""


@dataclass(frozen=True)
class Finding:
    """One problem of a run, or a fact worth knowing.

    `id` is the rule's name. `tags`, `steps` and `numbers` are the evidence; the first step is where the problem begins.
    `means` tells what was seen and what it means, `advice` starts with the one thing to try first, and `source` cites a
    paper or documentation. `code` is the rule's code; `diagnose` fills it in.

    Raises:
        ValueError: the severity is unknown.
        TypeError: a number is not one.
    """

    id: str
    severity: Severity
    tags: tuple[str, ...]
    steps: tuple[int, ...]
    means: str
    advice: str
    source: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    code: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity must be one of {', '.join(SEVERITIES)}, got {self.severity!r}")
        object.__setattr__(self, "numbers", {name: float(number) for name, number in self.numbers.items()})

    @property
    def rank(self) -> tuple[int, int]:
        """Sort key: worst first, then earliest first."""
        return SEVERITIES.index(self.severity), self.steps[0] if self.steps else 0


@dataclass(frozen=True)
class Unjudged:
    """A rule that could not judge a run.

    `missing` is the series that it lacks, and `metric` writes it. If the rule does not apply, no further data would
    help: `missing` then names the runs that it is for, and `metric` is empty.
    """

    id: str
    missing: str
    metric: str
    applies: bool = True


class Rule(Protocol):
    """A pure function of a run that yields findings: a frozen dataclass whose fields are its thresholds.

    A rule yields nothing for a run that lacks its tags or has too few points. It is also called while a run grows.

    - `id`: the rule's name in RULES, in YAML and in findings. A rule of another package may leave it out.
    - `code`: a short name that never changes its meaning, `<PREFIX>-<AREA>-<NNN>`. A rule of another package may leave
      it out; `TBX` is the prefix of the bundled rules.
    - `needs`: series that the rule requires. The first one is the series that it judges: with a field `min_points`,
      the rule yields nothing below that many points of it.
    - `source`: a paper or documentation.
    - `compares_with_start`: the rule compares with the start of the run. It cannot judge a resumed run whose earlier
      points cannot be read.
    - `only_notes`: all findings of the rule are notes, and these notes may trigger an action. Notes of other rules
      never do.
    """

    id: ClassVar[str]
    code: ClassVar[str] = ""
    needs: ClassVar[tuple[Need, ...]]
    source: ClassVar[str]
    compares_with_start: ClassVar[bool] = False
    only_notes: ClassVar[bool] = False

    def __call__(self, run: Run) -> Iterator[Finding]:
        """Yields findings; none for a healthy run."""
        raise TypeError(f"{type(self).__name__} must define __call__; yield findings")

    def beside(self, named: Mapping[str, Rule | None]) -> Rule:
        """Returns the rule as it judges beside the rules that a user has set, by name; None means that one is off."""
        return self

    def lacks(self, run: Run) -> str | None:
        """Returns what a run with all needs and `min_points` still lacks, as a noun; None if the rule can judge it."""
        return None

    def excludes(self, run: Run) -> str | None:
        """Returns what the rule is for, as a noun, if this run is something else; None if it applies.

        A run that has too few data yet is not excluded: see `lacks`.
        """
        return None
