"""Axes beside the step, against which a run's scalars can be written too: how far each point is along them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks._model.parameters import Select
from tbx_callbacks.metrics.base import STEP, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Sum, Value
from tbx_callbacks.tags import AXIS


@dataclass(frozen=True)
class AxisProgress:
    """Samples and tokens that all ranks have seen since the last point. Cost: one small sum a micro-batch."""

    axes: tuple[str, ...]

    tags: ClassVar[Mapping[str, str]] = {}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"batches"})
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "one small sum a micro-batch"

    def __call__(self, context: Context) -> Values:
        seen, values = context.interval, dict[str, Value]()
        if seen.samples and "samples" in self.axes:
            values[f"{AXIS}samples"] = Sum(seen.samples)
        if seen.tokens is not None and "tokens" in self.axes:
            values[f"{AXIS}tokens"] = Sum(seen.tokens)
        return values
