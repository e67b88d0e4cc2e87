"""Learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import NOTHING, STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Max


@dataclass(frozen=True)
class LearningRate:
    """The learning rate that the step used, for every parameter group of every optimizer.

    A group goes by its `name`, or by its place: `pg1`, `pg2`. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {"lr/<Optimizer>/<group>": ""}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        return {f"lr/{name}": Max(rate) for name, rate in context.learning_rates.items()}
