"""Simulates a metric of known cost, on a clock that only the metric and the training move."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from tbx_callbacks.metrics.values import Sum, Value


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class SlowMetric:
    """Takes some seconds of the clock; gives 1 from each rank, and records the steps at which it ran here."""

    name: str
    seconds: float
    clock: Clock = field(compare=False)
    steps: list[int] = field(default_factory=list, compare=False)

    events: ClassVar[frozenset[str]] = frozenset({"step"})
    needs: ClassVar[frozenset[str]] = frozenset()
    select: ClassVar[None] = None
    cost: ClassVar[str] = "much"

    @property
    def tags(self) -> dict[str, str]:
        return {f"{self.name}/ranks": ""}

    def __call__(self, context: Any) -> dict[str, Value]:
        self.clock.now += self.seconds
        self.steps.append(context.step)
        return {f"{self.name}/ranks": Sum(1.0)}
