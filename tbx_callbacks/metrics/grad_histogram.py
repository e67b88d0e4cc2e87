"""Histograms of the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.stats.histogram import check_bins


@dataclass(frozen=True)
class GradHistogram:
    """Exact counts of the gradients as the optimizer consumed them (after clipping), per group.

    `bins` equal bins between the smallest and the largest finite element of the group; NaN and Inf are left out (see
    the metric `nonfinite`). Of a sparse gradient only the stored elements are counted. Merged over ranks by adding
    counts over edges agreed first. Cost: two passes.
    """

    bins: int = 64
    """Number of bins, 1 to 255."""

    tags: ClassVar[Mapping[str, str]] = {"grads/{group}": "histogram"}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "two passes over the gradients"

    def __post_init__(self) -> None:
        check_bins(self.bins)

    def __call__(self, context: Context) -> Values:
        return {f"grads/{group}": found for group, found in context.histograms(context.gradients, self.bins).items()}
