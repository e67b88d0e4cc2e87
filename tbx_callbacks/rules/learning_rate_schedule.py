"""Defines the rules that check the learning rate schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import LEARNING_RATE, Need
from tbx_callbacks.rules.series_stats import finite, median, noise
from tbx_callbacks.rules.training_loss import training_loss
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class NoWarmup(Rule):
    """The learning rate starts at its peak and decays, or it is constant and the loss rises at first."""

    id: ClassVar[str] = "no_warmup"
    code: ClassVar[str] = "TBX-LR-002"
    needs: ClassVar[tuple[Need, ...]] = (LEARNING_RATE,)
    source: ClassVar[str] = (
        "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv:2002.04745"
    )
    compares_with_start: ClassVar[bool] = True
    only_notes: ClassVar[bool] = True

    min_points: int = 10
    of_peak: float = 0.9  # first value, as a share of the peak
    rise: float = 1.2  # for a constant rate: the loss after the first point, as a multiple of the loss there
    early: float = 0.05  # the first point must lie within this share of the steps, else a warm-up may be invisible

    def __call__(self, run: Run) -> Iterator[Finding]:
        for tag, full_series in LEARNING_RATE.all(run).items():
            series = finite(full_series)
            if len(series) < self.min_points:
                continue
            first, last, peak = int(series.steps[0]), int(series.steps[-1]), float(series.values.max())
            is_constant = float(series.values.min()) >= self.of_peak * peak
            if is_constant and not self._rises_at_start(run):
                continue  # a constant rate is a choice, as long as it does no harm
            if peak > 0 and first <= self.early * last and series.values[0] >= self.of_peak * peak:
                yield Finding(
                    id=self.id,
                    severity="note",
                    tags=(tag,),
                    steps=(first,),
                    numbers={"first": float(series.values[0]), "peak": peak},
                    means=f"The learning rate is already at its peak ({peak:.3g}) at step {first}."
                    " There is no warm-up, although gradients are often largest in the first steps, and optimizers with"
                    " moving averages have hardly measured them.",
                    advice="Warm up over the first 6 to 10 % of the steps (warmup_steps). This matters most if results"
                    " depend on the seed.",
                    source=self.source,
                )
                return

    def _rises_at_start(self, run: Run) -> bool:
        """Whether the training loss rose in the first steps."""
        entry = training_loss(run)
        if entry is None or len(values := entry[1].values) < self.min_points:
            return False
        start, top = float(values[0]), median(values[1:4])
        return start > 0 and top > self.rise * start and top - start > noise(values)


@dataclass(frozen=True)
class DecayedEarly(Rule):
    """The learning rate reaches zero long before training ends."""

    id: ClassVar[str] = "decayed_early"
    code: ClassVar[str] = "TBX-LR-003"
    needs: ClassVar[tuple[Need, ...]] = (LEARNING_RATE,)
    source: ClassVar[str] = "Li, Yumer and Ramanan 2020, Budgeted Training, arXiv:1905.04753"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 10
    of_peak: float = 1e-3  # share of the peak that counts as zero; cosine and linear decay reach it in the last 2 %
    before: float = 0.9  # zero is reached before this share of the steps

    def __call__(self, run: Run) -> Iterator[Finding]:
        for tag, full_series in LEARNING_RATE.all(run).items():
            series = finite(full_series)
            peak = float(series.values.max()) if len(series) >= self.min_points else 0.0
            zero = series.values <= self.of_peak * peak
            if peak <= 0 or not zero[-1]:
                continue
            first_zero = len(zero) - int(np.argmin(zero[::-1]))  # index after the last nonzero point
            step, last = int(series.steps[first_zero]), int(series.steps[-1])
            if step < self.before * last:
                yield Finding(
                    id=self.id,
                    severity="warning",
                    tags=(tag,),
                    steps=(step, last),
                    numbers={"share": step / last, "peak": peak},
                    means=f"The learning rate has been zero since step {step} of {last}."
                    f" The last {1 - step / last:.0%} of the training changed nothing.",
                    advice="Pass the real number of optimizer steps to the scheduler. It is the number of batches per"
                    " epoch, divided by accumulation steps, times epochs. Call the scheduler once a step.",
                    source=self.source,
                )
                return
