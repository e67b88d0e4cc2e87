"""Mixed precision with a loss scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import AMP_SCALE, AMP_SKIPPED, Need
from tbx_callbacks.rules.series_stats import finite
from tbx_callbacks.runs.series import Run, Series

_SOURCE = "Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740"


@dataclass(frozen=True)
class AmpScaleCollapse(Rule):
    """The loss scale has fallen so far that small gradients are lost in fp16."""

    id: ClassVar[str] = "amp_scale_collapse"
    needs: ClassVar[tuple[Need, ...]] = (AMP_SCALE,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 5
    scale: float = 1.0  # below, gradients are made smaller than they are; torch starts at 65536 and halves

    def __call__(self, run: Run) -> Iterator[Finding]:
        found = AMP_SCALE.first(run)
        if found is None or len(series := finite(found[1])) < self.min_points or series.values[-1] >= self.scale:
            return
        step = int(series.steps[(series.values < self.scale).argmax()])
        yield Finding(
            id=self.id,
            severity="error",
            tags=(found[0],),
            steps=(step,),
            numbers={"first": float(series.values[0]), "last": float(series.values[-1])},
            means=f"The loss scale fell from {series.values[0]:g} to {series.values[-1]:g}: gradients overflow fp16"
            " whatever"
            " the scale.",
            advice="Look for Inf in the loss and in attention masks (finfo.min of fp32 in fp16); train in bf16.",
            source=self.source,
        )


@dataclass(frozen=True)
class AmpSkippedSteps(Rule):
    """Many optimizer steps are skipped since gradients overflow; `amp/skipped_steps` counts since the last point."""

    id: ClassVar[str] = "amp_skipped_steps"
    needs: ClassVar[tuple[Need, ...]] = (AMP_SKIPPED,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 5
    share: float = 0.05  # of all steps; growing every 2000 steps costs one in 2000
    at_start: int = 10  # skipped steps that finding the scale may cost

    def __call__(self, run: Run) -> Iterator[Finding]:
        found = AMP_SKIPPED.first(run)
        if found is None or len(series := finite(found[1])) < self.min_points:
            return
        skipped, steps = _total(series), int(series.steps[-1])
        if skipped <= max(self.at_start, self.share * steps):
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(found[0],),
            steps=(int(series.steps[(series.values > 0).argmax()]), steps),
            numbers={"skipped": skipped, "steps": steps},
            means=f"{skipped:.0f} of {steps} steps were skipped because gradients overflowed fp16: the schedule runs"
            " on, the"
            " weights do not.",
            advice="Start with a smaller loss scale, lower the learning rate, clip gradients, or train in bf16.",
            source=self.source,
        )


def _total(series: Series) -> float:
    return float(np.sum(series.values))
