"""Defines the metric that checks how a training is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.values import Max
from tbx_callbacks.tags import WIRING


@dataclass(frozen=True)
class Found(Max):
    """A number that a check found, the largest over ranks; left out if no rank could judge."""

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return maxes[0] if maxes[0] >= 0 else None


@dataclass(frozen=True)
class Wiring(Metric):
    """Checks how the training is put together: its model, optimizers, losses, labels and modes.

    Each check writes a number, and a text that names what was found. The first three steps are checked, and also each
    step for weights that change outside of the optimizer and for a model in evaluation mode. The rules of the group
    `wiring` explain the numbers. They judge them while the training runs, and again in `doctor`.

    Checks of parameters and gradients are left out for sharded models. Checks of the autograd graph are left out for
    compiled ones. Cost: three steps with hooks; then about a dozen comparisons of numbers a step.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{WIRING}/<check>": ""}
    needs: ClassVar[frozenset[str]] = frozenset({"wiring"})
    cost: ClassVar[str] = "three steps with hooks, then comparisons of numbers"

    def __call__(self, context: Context) -> Values:
        numbers: Values = {f"{WIRING}/{name}": Found(check.number) for name, check in context.checks.items()}
        texts = {f"{WIRING}/{name}/details": Text(check.details) for name, check in context.checks.items()}
        return {**numbers, **{tag: text for tag, text in texts.items() if text.markdown}}
