"""Defines the metrics that write histograms of weights, gradients and updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks._model.parameters import Select
from tbx_callbacks._stats.histogram import check_bins
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.tags import GRADS, UPDATES, WEIGHTS


@dataclass(frozen=True)
class WeightHistogram(Metric):
    """Exact histogram of the weights after the step, frozen ones included, per group.

    Uses `bins` equal bins between the smallest and the largest finite element of the group. NaN and Inf are left out
    (see the metric `nonfinite`). Ranks first agree on the edges, then add their counts. Cost: two passes.
    """

    bins: int = 64
    """Number of bins, 1 to 255."""

    tags: ClassVar[Mapping[str, str]] = {f"{WEIGHTS}/{{group}}": "histogram"}
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "two passes over the weights"

    def __post_init__(self) -> None:
        check_bins(self.bins)

    def __call__(self, context: Context) -> Values:
        return {
            f"{WEIGHTS}/{group}": histogram
            for group, histogram in context.histograms(context.weights, self.bins).items()
        }


@dataclass(frozen=True)
class GradHistogram(Metric):
    """Exact histogram of the gradients as the optimizer consumed them (after clipping), per group.

    Uses `bins` equal bins between the smallest and the largest finite element of the group. NaN and Inf are left out
    (see the metric `nonfinite`). For sparse gradients only stored elements count. Ranks first agree on the edges, then
    add their counts. Cost: two passes.
    """

    bins: int = 64
    """Number of bins, 1 to 255."""

    tags: ClassVar[Mapping[str, str]] = {f"{GRADS}/{{group}}": "histogram"}
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "two passes over the gradients"

    def __post_init__(self) -> None:
        check_bins(self.bins)

    def __call__(self, context: Context) -> Values:
        return {
            f"{GRADS}/{group}": histogram
            for group, histogram in context.histograms(context.gradients, self.bins).items()
        }


@dataclass(frozen=True)
class UpdateHistogram(Metric):
    """Exact histogram of the update, `new - old`, of parameters that have a gradient, per group.

    Uses `bins` equal bins between the smallest and the largest finite element of the group. Not written for a step that
    was skipped because gradients overflowed. Ranks first agree on the edges, then add their counts. Cost: a copy of the
    selected weights on due steps, freed after the step, and three passes over it.
    """

    bins: int = 64
    """Number of bins, 1 to 255."""

    tags: ClassVar[Mapping[str, str]] = {f"{UPDATES}/{{group}}": "histogram"}
    needs: ClassVar[frozenset[str]] = frozenset({"weights_before"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "a copy of the weights, three passes over it"

    def __post_init__(self) -> None:
        check_bins(self.bins)

    def __call__(self, context: Context) -> Values:
        if context.updates is None:
            return {}
        return {
            f"{UPDATES}/{group}": histogram
            for group, histogram in context.histograms(context.updates, self.bins).items()
        }
