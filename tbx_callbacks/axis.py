"""Axes beside the step, against which a run's scalars can be written too: how far each point is along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.items import Item
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.parts import AXIS
from tbx_callbacks.plan import Entry
from tbx_callbacks.schedule import Schedule, either
from tbx_callbacks.select import Select
from tbx_callbacks.values import Sum, Value


@dataclass(frozen=True)
class Seen:
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


def items_of(axes: Sequence[str]) -> list[Item]:
    """What has to be counted for these axes; epochs come from the trainer."""
    counted = tuple(axis for axis in axes if axis in ("samples", "tokens"))
    return [Item("axis", Seen(counted))] if counted else []


def follow(entries: Sequence[Entry], log_schedule: Schedule) -> None:
    """Counts whenever anything else is measured, or the trainer logs."""
    others = [entry.schedule for entry in entries if not isinstance(entry.item.metric, Seen) and entry.on_steps]
    for entry in entries:
        if isinstance(entry.item.metric, Seen):
            entry.schedule = either(*dict.fromkeys((log_schedule, *others)))
