"""Histograms of what a step changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.stats.histogram import check_bins


@dataclass(frozen=True)
class UpdateHistogram:
    """Exact counts of what the step changed, `new - old`, per group, of parameters that have a gradient.

    `bins` equal bins between the smallest and the largest finite element of the group. Not written for a step that was
    skipped because gradients overflowed. Merged over ranks by adding counts over edges agreed first. Cost: a copy of
    the selected weights on due steps, freed at once, and three passes over it.
    """

    bins: int = 64
    """Number of bins, 1 to 255."""

    tags: ClassVar[Mapping[str, str]] = {"updates/{group}": "histogram"}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"weights_before"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "a copy of the weights, three passes over it"

    def __post_init__(self) -> None:
        check_bins(self.bins)

    def __call__(self, context: Context) -> Values:
        if context.updates is None:
            return {}
        return {f"updates/{group}": found for group, found in context.histograms(context.updates, self.bins).items()}
