"""Defines the rules that check the loss scale of mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import AMP_SCALE, AMP_SKIPPED, Need
from tbx_callbacks.rules.series_stats import finite
from tbx_callbacks.runs.series import Run, Series

_SOURCE = "Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740"


@dataclass(frozen=True)
class AmpScaleCollapse(Rule):
    """The loss scale fell so far that small gradients underflow in fp16."""

    id: ClassVar[str] = "amp_scale_collapse"
    code: ClassVar[str] = "TBX-AMP-001"
    needs: ClassVar[tuple[Need, ...]] = (AMP_SCALE,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 5
    scale: float = 1.0  # below 1 the scale shrinks gradients; torch starts at 65536 and halves

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = AMP_SCALE.first(run)
        if entry is None or len(series := finite(entry[1])) < self.min_points or series.values[-1] >= self.scale:
            return
        step = int(series.steps[(series.values < self.scale).argmax()])
        yield Finding(
            id=self.id,
            severity="error",
            tags=(entry[0],),
            steps=(step,),
            numbers={"first": float(series.values[0]), "last": float(series.values[-1])},
            means=f"The loss scale fell from {series.values[0]:g} to {series.values[-1]:g}."
            " Gradients overflow fp16 at any scale, and below 1 the scale makes small ones vanish.",
            advice="Train in bf16, if the device can. Otherwise look for Inf in the loss and in attention masks (fp32's"
            " finfo.min overflows fp16).",
            source=self.source,
        )


@dataclass(frozen=True)
class AmpSkippedSteps(Rule):
    """Many optimizer steps are skipped because gradients overflow."""

    id: ClassVar[str] = "amp_skipped_steps"
    code: ClassVar[str] = "TBX-AMP-002"
    needs: ClassVar[tuple[Need, ...]] = (AMP_SKIPPED,)
    source: ClassVar[str] = _SOURCE

    min_points: int = 5
    share: float = 0.05  # of all steps; the scale grows every 2000 steps, and each growth may cost one step
    at_start: int = 10  # skipped steps that the search for the scale may cost

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = AMP_SKIPPED.first(run)
        if entry is None or len(series := finite(entry[1])) < self.min_points:
            return
        skipped, steps = _total(series), int(series.steps[-1])
        if skipped <= max(self.at_start, self.share * steps):
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(entry[0],),
            steps=(int(series.steps[(series.values > 0).argmax()]), steps),
            numbers={"skipped": skipped, "steps": steps},
            means=f"{skipped:.0f} of {steps} steps were skipped because gradients overflowed fp16."
            " The learning rate schedule advanced, but the weights did not change.",
            advice="Train in bf16, if the device can. Otherwise start with a smaller loss scale, lower the learning"
            " rate, or clip gradients.",
            source=self.source,
        )


def _total(series: Series) -> float:  # `amp/skipped_steps` counts since the last point, so the points add up
    return float(np.sum(series.values))
