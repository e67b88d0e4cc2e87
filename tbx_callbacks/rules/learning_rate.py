"""The shape of the learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import LEARNING_RATE, Need
from tbx_callbacks.rules.series_stats import finite
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class NoWarmup(Rule):
    """The learning rate starts at its peak."""

    id: ClassVar[str] = "no_warmup"
    needs: ClassVar[tuple[Need, ...]] = (LEARNING_RATE,)
    source: ClassVar[str] = (
        "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv:2002.04745"
    )
    compares_with_start: ClassVar[bool] = True
    only_notes: ClassVar[bool] = True

    min_points: int = 10
    of_peak: float = 0.9  # share of the peak at the first point
    early: float = 0.05  # share of the steps by which the first point must lie; a warm-up before it would not be seen

    def __call__(self, run: Run) -> Iterator[Finding]:
        for tag, whole in LEARNING_RATE.all(run).items():
            series = finite(whole)
            if len(series) < self.min_points:
                continue
            first, last, peak = int(series.steps[0]), int(series.steps[-1]), float(series.values.max())
            if peak > 0 and first <= self.early * last and series.values[0] >= self.of_peak * peak:
                yield Finding(
                    id=self.id,
                    severity="note",
                    tags=(tag,),
                    steps=(first,),
                    numbers={"first": float(series.values[0]), "peak": peak},
                    means=f"The learning rate is at its peak ({peak:.3g}) at step {first} already: no warm-up, while"
                    " Adam's"
                    " averages are still rough and post-LayerNorm models like BERT have their largest gradients.",
                    advice="Warm up over the first 6 to 10 % of the steps (warmup_steps), above all where runs differ"
                    " by seed.",
                    source=self.source,
                )
                return


@dataclass(frozen=True)
class DecayedEarly(Rule):
    """The learning rate reaches zero long before training ends."""

    id: ClassVar[str] = "decayed_early"
    needs: ClassVar[tuple[Need, ...]] = (LEARNING_RATE,)
    source: ClassVar[str] = "Li, Yumer and Ramanan 2020, Budgeted Training, arXiv:1905.04753"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 10
    of_peak: float = 1e-3  # share of the peak that counts as zero; cosine and linear decay reach it in the last 2 %
    before: float = 0.9  # share of the steps

    def __call__(self, run: Run) -> Iterator[Finding]:
        for tag, whole in LEARNING_RATE.all(run).items():
            series = finite(whole)
            peak = float(series.values.max()) if len(series) >= self.min_points else 0.0
            zero = series.values <= self.of_peak * peak
            if peak <= 0 or not zero[-1]:
                continue
            from_place = len(zero) - int(np.argmin(zero[::-1]))  # after the last point that is not zero
            step, last = int(series.steps[from_place]), int(series.steps[-1])
            if step < self.before * last:
                yield Finding(
                    id=self.id,
                    severity="warning",
                    tags=(tag,),
                    steps=(step, last),
                    numbers={"share": step / last, "peak": peak},
                    means=f"The learning rate has been zero since step {step} of {last}: the last"
                    f" {1 - step / last:.0%} of"
                    " the training changed nothing.",
                    advice="Give the scheduler the number of optimizer steps that are really taken (batches divided by"
                    " accumulation, times epochs).",
                    source=self.source,
                )
                return
