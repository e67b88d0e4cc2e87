"""Defines `Case`, a training with the findings that a user would expect of it, and the decorators that register one."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.diagnosis_runs.kinds import Half, half_of

Logs = Literal["default", "full", "own"]
"""The metric set of the run; `own`: the trainer's own logger or a plain SummaryWriter writes it, without our callback.

With `full`, everything is switched on: all metrics, all rules live, and the checks before the training. With `default`,
the set `default` and all rules live.
"""


@dataclass(frozen=True)
class Place:
    """The folders and the seed of a run."""

    folder: Path
    work: Path
    seed: int


@dataclass(frozen=True)
class Facts:
    """A training's own numbers, which tell whether it went as planned.

    `is_live` tells whether our callback was there; `preflight` are the findings of the checks before the training, as
    pairs of rule and severity, and `preflight_failed` is the error if these checks failed.
    """

    first: float
    last: float
    eval_loss: float
    best_eval: float
    accuracy: float | None
    is_live: bool
    preflight: tuple[tuple[str, str], ...] = ()
    preflight_failed: str = ""


Train = Callable[[Place], Facts]


@dataclass(frozen=True)
class Case:
    """A training and the findings that a knowledgeable user would expect.

    Args:
        name: the name of the run.
        kind: the kind of fault or of healthy training, which decides the half: see `kinds.py`.
        train: trains and logs into the folder.
        is_fault: whether the run is faulty.
        wants: rules that name the cause; any of them suffices. Empty if no rule can name it.
        also_ok: rules whose findings are true too: symptoms of the fault, or facts of a healthy run.
        tag: pattern that a tag of a finding in `wants` must match, where the finding must name a layer.
        steps: the steps in which a finding in `wants` must begin.
        pattern: the name of the pattern in the literature.
        planned: whether the training went as planned; runs that did not are left out.
    """

    name: str
    kind: str
    train: Train
    is_fault: bool
    wants: frozenset[str] = frozenset()
    also_ok: frozenset[str] = frozenset()
    tag: str | None = None
    steps: tuple[int, int] | None = None
    pattern: str | None = None
    planned: Callable[[Facts], bool] | None = None

    @property
    def half(self) -> Half:
        return half_of(self.kind, is_fault=self.is_fault)

    @property
    def title(self) -> str:
        """The first line of the function's docstring."""
        return (self.train.__doc__ or self.name).strip().partition("\n")[0].rstrip(".")

    def names_cause(self, rule: str, tags: Iterable[str], steps: tuple[int, ...]) -> bool:
        """Whether a finding names the cause of the fault, in the right layer and step."""
        if rule not in self.wants:
            return False
        if self.tag is not None and tags and not any(re.search(self.tag, tag) for tag in tags):
            return False
        return self.steps is None or not steps or self.steps[0] <= steps[0] <= self.steps[1]


# Symptoms that are true of many faults.
LEARNS_NOTHING = frozenset({"underfitting", "plateau"})
TOO_HIGH = LEARNS_NOTHING | {"divergence", "learning_rate_too_high", "loss_spike", "nonfinite", "update_too_large"}
TOO_LOW = LEARNS_NOTHING | {"update_too_small"}
MEMORISES = frozenset({"accuracy_gap", "overfitting"})

CASES: dict[str, Case] = {}
"""All registered runs by name, in the order of their definition."""

Decorator = Callable[[Train], Train]


def fault(
    *,
    kind: str,
    wants: Iterable[str],
    also_ok: Iterable[str] = (),
    tag: str | None = None,
    steps: tuple[int, int] | None = None,
    pattern: str | None = None,
    planned: Callable[[Facts], bool] | None = None,
) -> Decorator:
    """Registers a faulty run; the arguments are those of `Case`."""

    def register(train: Train) -> Train:
        return _add(
            Case(
                train.__name__,
                kind,
                train,
                is_fault=True,
                wants=frozenset(wants),
                also_ok=frozenset(also_ok) - frozenset(wants),
                tag=tag,
                steps=steps,
                pattern=pattern,
                planned=planned,
            )
        )

    return register


def healthy(*, kind: str, ok: Iterable[str] = (), planned: Callable[[Facts], bool] | None = None) -> Decorator:
    """Registers a healthy run; `ok` are rules whose findings are true there."""

    def register(train: Train) -> Train:
        return _add(Case(train.__name__, kind, train, is_fault=False, also_ok=frozenset(ok), planned=planned))

    return register


def _add(case: Case) -> Train:
    if case.name in CASES:
        raise ValueError(f"the name of a run must be unique, got {case.name!r} twice; rename one")
    half_of(case.kind, is_fault=case.is_fault)
    CASES[case.name] = case
    return case.train


def all_cases() -> Mapping[str, Case]:
    """Imports the modules that define runs, and returns all of them by name."""
    for module in ("optimization", "gradients", "data", "wiring", "healthy_transformers", "healthy_networks"):
        importlib.import_module(f"benchmarks.diagnosis_runs.runs_{module}")
    return CASES


# -- conditions on the facts of a run, for `planned` -------------------------------------------------------------------


def accuracy_below(limit: float) -> Callable[[Facts], bool]:
    """Whether the evaluation ended below an accuracy, or without a number."""
    return lambda facts: facts.accuracy is None or not facts.accuracy >= limit


def accuracy_above(limit: float) -> Callable[[Facts], bool]:
    """Whether the evaluation ended above an accuracy."""
    return lambda facts: facts.accuracy is not None and facts.accuracy >= limit


def loss_above(limit: float) -> Callable[[Facts], bool]:
    """Whether the training loss ended above a limit, or as NaN."""
    return lambda facts: not facts.last <= limit


def loss_below(limit: float) -> Callable[[Facts], bool]:
    """Whether the training loss ended below a limit."""
    return lambda facts: facts.last < limit
