"""Defines the metric `AxisProgress`, which counts samples and tokens for the axes of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.performance import counted
from tbx_callbacks.metrics.values import Sum
from tbx_callbacks.tags import AXIS


@dataclass(frozen=True)
class AxisProgress(Metric):
    """Samples and tokens that all ranks have trained on since the last point. Cost: one small sum per micro-batch.

    Once the samples (tokens) of a micro-batch were not counted on any rank, its axis ends: later positions would be too
    small.
    """

    axes: tuple[str, ...]

    tags: ClassVar[Mapping[str, str]] = {}
    needs: ClassVar[frozenset[str]] = frozenset({"batches"})
    cost: ClassVar[str] = "one small sum a micro-batch"

    def __call__(self, context: Context) -> Values:
        interval = context.interval
        counts = {"samples": interval.samples, "tokens": interval.tokens}
        return {f"{AXIS}{axis}": counted(Sum, counts[axis], axis not in interval.incomplete) for axis in self.axes}
