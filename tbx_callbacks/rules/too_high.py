"""A learning rate that is too high from the start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import LEARNING_RATE, TRAIN_LOSS, WEIGHT_NORMS, Need
from tbx_callbacks.rules.series_stats import ends, finite, median, outermost, smooth
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class LearningRateTooHigh(Rule):
    """The first steps overthrow the weights, or drive the loss up, and the loss does not get better for it."""

    id: ClassVar[str] = "learning_rate_too_high"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS, LEARNING_RATE)
    source: ClassVar[str] = "Smith 2017, Cyclical Learning Rates (the range test), arXiv:1506.01186"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 20
    early: float = 0.3  # share of the points that is the start
    growth: float = 1.5  # of a layer's weight norm in that time; the healthy planted runs have 1.0 to 1.3, one 1.5
    layers: float = 0.5  # share of the layers that grew so much
    peak: float = 1.3  # of the loss to its start, both medians of 3 points
    improvement: float = 0.1  # a loss that fell by this share of its start shows that the rate can be used

    def __call__(self, run: Run) -> Iterator[Finding]:
        found, rates = TRAIN_LOSS.first(run), LEARNING_RATE.first(run)
        if found is None or rates is None or len(series := finite(found[1])) < self.min_points:
            return
        start, end = median(series.values[:3]), ends(series.values)[1]
        number = max(3, round(self.early * len(series)))
        top = float(smooth(series.values[:number], 3).max())
        grown = self._grown(run, int(series.steps[number - 1]))
        if end < (1 - self.improvement) * start or not (grown or top > self.peak * start):
            return
        rate = float(finite(rates[1]).values.max())
        if grown:
            worst = max(grown, key=lambda name: grown[name])
            said = f"the weights of {len(grown)} layers grew up to {grown[worst]:.1f} times ({worst})"
        else:
            said = f"the loss rose from {start:.3g} to {top:.3g}"
        yield Finding(
            id=self.id,
            severity="error",
            tags=(rates[0], found[0], *(f"{tags.WEIGHT_NORM}/{name}" for name in grown)),
            steps=(int(series.steps[0]), int(series.steps[number - 1])),
            numbers={"rate": rate, "loss_start": start, "loss_end": end, **grown},
            means=f"The learning rate ({rate:.2g}) is too high from the start: by step {series.steps[number - 1]}"
            f" {said}, and"
            f" the loss is {end:.3g} after {start:.3g}.",
            advice="Divide the learning rate by 10, then by 10 again; for BERT 1e-5 to 5e-5 is usual; warm up.",
            source=self.source,
        )

    def _grown(self, run: Run, until: int) -> dict[str, float]:
        """Growth by layer, where enough layers have grown."""
        growth = {}
        norms = outermost(WEIGHT_NORMS.all(run))
        for name, whole in norms.items():
            series = finite(whole)
            values = series.values[series.steps <= until]
            if len(values) and values[0] > 0 and values.max() > self.growth * values[0]:
                growth[name] = float(values.max() / values[0])
        return growth if len(growth) >= max(1, self.layers * len(norms)) else {}
