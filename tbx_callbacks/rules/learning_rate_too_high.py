"""Defines the rule that finds a learning rate that is too high from the start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks._text import count
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import LEARNING_RATE, LORA_UPDATES, TRAIN_LOSS, WEIGHT_NORMS, Need
from tbx_callbacks.rules.series_stats import finite, median, noise, outermost, smooth
from tbx_callbacks.rules.training_loss import (
    exploded_from,
    fall_of,
    first_loss,
    has_no_scale,
    not_minimised,
    training_loss,
)
from tbx_callbacks.runs.series import Floats, Run, Series


@dataclass(frozen=True)
class LearningRateTooHigh(Rule):
    """The first steps inflate the weights or raise the loss, and the loss hardly improves afterwards.

    With LoRA the frozen weights cannot grow. There, updates of most adapters that are many times the frozen weight have
    replaced the model, unless the loss has nearly reached zero.
    """

    id: ClassVar[str] = "learning_rate_too_high"
    code: ClassVar[str] = "TBX-LR-001"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS, LEARNING_RATE)
    source: ClassVar[str] = "Smith 2017, Cyclical Learning Rates (the range test), arXiv:1506.01186"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 8
    enough: int = 20  # with fewer points, one low loss at the start is no reference
    early: float = 0.3  # share of the points that counts as the start
    growth: float = 1.5  # growth of a layer's weight norm in that time; healthy test runs have 1.0 to 1.3, one 1.5
    least_start: float = 0.1  # share of the median layer's first norm; a layer below it was initialised to zero
    first_step: float = 0.5  # growth in the second step, as a share of the norm after the first one: the same
    layers: float = 0.5  # share of the layers that grew that much
    peak: float = 1.3  # highest loss over the initial loss, both medians of 3 points
    improvement: float = 0.1  # if the loss fell by this share of its initial value, the rate is usable
    recovery: float = (
        0.3  # the same after a blow-up: the steps until then were lost, and a little progress is no excuse
    )
    learned: float = 0.5  # a loss below this share of the initial one at the start: the data differ, not the rate
    deviations: float = 3.0  # minimum height of the peak in standard deviations of the noise
    deviations_of_one: float = 5.0  # the same above a single loss
    blow_up: float = 2.0  # a loss above so many times the initial one; a single low loss after it is chance
    adapter: float = 10.0  # an adapter's update over the frozen weight, both norms; most are below 1
    adapter_loss: float = 0.1  # a loss below this share of the initial one bears any size

    def excludes(self, run: Run) -> str | None:
        return not_minimised(run) or has_no_scale(run)

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry, rates = training_loss(run), LEARNING_RATE.first(run)
        if entry is None or rates is None or len(series := entry[1]) < self.min_points:
            return
        fall = fall_of(series.values)
        start, end = median(series.values[:3]), fall.end
        number = max(3, round(self.early * len(series)))
        top = float(smooth(series.values[:number], 3).max())
        first = [float(series.values[0])] if len(series) >= self.enough else []  # the loss may rise at once
        known = first_loss(run)
        first += [] if known is None else [known]  # or before the first point
        exploded = exploded_from(series.values)
        # The noise of a risen loss is as large as the loss: it is no excuse.
        is_lost = exploded is not None or (known is not None and end > self.peak * known)
        is_clear = is_lost or top - min(first, default=top) > self.deviations_of_one * noise(series.values)
        start = min(start, *first, *([] if exploded is None else [exploded])) if is_clear else start
        grown = self._growth_by_layer(run, int(series.steps[number - 1]))
        is_no_noise = is_lost or top - start > self.deviations * noise(series.values)
        rose = not fall.is_signed and top > self.peak * start and is_no_noise
        has_learned_first = self._lowest(series.values[:number], start, is_lost=is_lost) < self.learned * start
        needed = self.recovery if rose else self.improvement
        rate = float(finite(rates[1]).values.max())
        if not fall.is_signed and end > self.adapter_loss * start and (large := self._large_adapters(run)):
            yield self._adapters_finding(rate, (rates[0], entry[0]), large, (start, end), int(series.steps[-1]))
            return
        if fall.is_signed or has_learned_first or end < (1 - needed) * start or not (grown or rose):
            return
        if grown and not rose:
            worst = max(grown, key=lambda name: grown[name])
            evidence = f"the weight norms of {count(len(grown), 'layer')} grew up to {grown[worst]:.1f} times ({worst})"
        else:
            evidence = f"the loss rose from {start:.3g} to {top:.3g}"
        yield Finding(
            id=self.id,
            severity="error",
            tags=(rates[0], entry[0], *(f"{tags.WEIGHT_NORM}/{name}" for name in grown)),
            steps=(int(series.steps[0]), int(series.steps[number - 1])),
            numbers={"rate": rate, "loss_start": start, "loss_end": end, **grown},
            means=f"The learning rate ({rate:.2g}) is too high from the start: by step {series.steps[number - 1]}"
            f" {evidence}. The loss is {end:.3g}, compared with {start:.3g} initially: its steps"
            " destroyed more than they learned.",
            advice="Divide the learning rate by 10. If that does not suffice, divide it by 10 again, and warm up."
            " For fine-tuning pretrained transformers, 1e-5 to 5e-5 is usual.",
            source=self.source,
        )

    def _lowest(self, values: Floats, start: float, *, is_lost: bool) -> float:
        """Returns the lowest loss; after a blow-up that of three points, because single batches are right by chance."""
        risen = np.flatnonzero(values > self.blow_up * start)
        if not is_lost or not len(risen):
            return float(values.min())
        return min(float(values[: risen[0]].min(initial=np.inf)), float(smooth(values, 3).min()))

    def _large_adapters(self, run: Run) -> dict[str, float]:
        """Returns the size of large updates by tag if most adapters have one, else an empty dict."""
        last = {tag: finite(each).values[-1:] for tag, each in LORA_UPDATES.all(run).items()}
        large = {tag: float(size[0]) for tag, size in last.items() if (size > self.adapter).any()}
        return large if len(large) > self.layers * len(last) else {}

    def _adapters_finding(
        self, rate: float, read: tuple[str, str], large: dict[str, float], losses: tuple[float, float], step: int
    ) -> Finding:
        start, end = losses
        return Finding(
            id=self.id,
            severity="error",
            tags=(*read, *large),
            steps=(step,),
            numbers={"rate": rate, "loss_start": start, "loss_end": end, **large},
            means=f"The learning rate ({rate:.2g}) is too high for the adapters: {len(large)} of them add updates that"
            f" are {min(large.values()):.0f} to {max(large.values()):.0f} times as large as the frozen weights."
            f" The loss is {end:.3g}, compared with {start:.3g} initially: little is left of the pretrained model.",
            advice="Divide the learning rate by 10. If that does not suffice, divide it by 10 again, and warm up."
            " Then look at the scaling alpha / r, which multiplies each update.",
            source=self.source,
        )

    def _growth_by_layer(self, run: Run, until: int) -> dict[str, float]:
        """Returns the growth by layer if enough layers grew, else an empty dict."""
        growth = {}
        norms: dict[str, Series] = {}
        for name, full_series in outermost(WEIGHT_NORMS.all(run)).items():
            if len(series := finite(full_series)) and series.steps[0] <= until:
                norms[name] = series
        least = self.least_start * median(np.array([series.values[0] for series in norms.values()])) if norms else 0.0
        for name, series in norms.items():
            values = series.values[series.steps <= until]
            if values[0] > least and not self._began_at_zero(series) and values.max() > self.growth * values[0]:
                growth[name] = float(values.max() / values[0])
        return growth if len(growth) >= max(1, self.layers * len(norms)) else {}

    def _began_at_zero(self, norms: Series) -> bool:
        """Whether the norm after the first step is that of an update: the second step adds about as much again."""
        if len(norms) < 2 or norms.steps[0] != 1 or norms.steps[1] != 2:
            return False
        return bool(norms.values[1] - norms.values[0] > self.first_step * norms.values[0])
