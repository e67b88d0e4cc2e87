"""A training loss that jumps or turns up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import ends, finite, median, noise, smooth, width_for
from tbx_callbacks.runs.series import Floats, Run


@dataclass(frozen=True)
class LossSpike(Rule):
    """The training loss jumps for some points and comes back."""

    id: ClassVar[str] = "loss_spike"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "Chowdhery et al. 2022, PaLM, section 5.1, arXiv:2204.02311"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 30  # a window and some points after it
    window: int = 20  # points before, whose median is the measure; noise is that of three times as many
    ratio: float = 2.0  # of the loss to the median before
    deviations: float = 10.0  # above the median before; losses of single batches have long tails
    rise: float = 0.75  # at least this share of the loss at the start, so that ripples near zero do not count

    def __call__(self, run: Run) -> Iterator[Finding]:
        found = TRAIN_LOSS.first(run)
        if found is None or len(series := finite(found[1])) < self.min_points:
            return
        tag, values = found[0], series.values
        start = median(values[:3])
        spikes = [place for place in range(self.window, len(values) - 1) if self._jumps(values, place, start)]
        spikes = [place for place in spikes if _comes_back(values, place, self.window, self.ratio)]
        if not spikes:
            return
        first = spikes[0]
        before = median(values[first - self.window : first])
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(tag,),
            steps=tuple(int(series.steps[place]) for place in spikes[:5]),
            numbers={"loss": float(values[first]), "median_before": before, "points": len(spikes)},
            means=f"The training loss jumped from {before:.3g} to {values[first]:.3g} at step {series.steps[first]}"
            " and came"
            " back: one or a few updates did harm.",
            advice="Look at the batches just before this step; clip gradients by norm or lower the learning rate.",
            source=self.source,
        )

    def _jumps(self, values: Floats, place: int, start: float) -> bool:
        before = values[place - self.window : place]
        middle = median(before)
        height = values[place] - middle
        return bool(
            values[place] > self.ratio * middle
            and height > self.deviations * noise(values[max(0, place - 3 * self.window) : place])
            and height > self.rise * start
        )


def _comes_back(values: Floats, place: int, window: int, ratio: float) -> bool:
    """Whether the loss falls again to what would be no spike, for some points in a row."""
    after = values[place + 1 :]
    return bool(smooth(after, min(3, len(after))).min() <= ratio * median(values[place - window : place]))


@dataclass(frozen=True)
class Divergence(Rule):
    """The training loss turns up and stays up."""

    id: ClassVar[str] = "divergence"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "Mosbach, Andriushchenko and Klakow 2021, Stability of Fine-tuning BERT, arXiv:2006.04884"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 20
    ratio: float = 1.5  # of the last loss to the best, both medians of a window
    rise: float = 0.3  # at least this share of the loss at the start

    def __call__(self, run: Run) -> Iterator[Finding]:
        found = TRAIN_LOSS.first(run)
        if found is None or len(series := finite(found[1])) < self.min_points:
            return
        width = width_for(len(series))
        smoothed = smooth(series.values, width)
        best, (start, _) = int(np.argmin(smoothed)), ends(series.values)
        low, last = float(smoothed[best]), float(smoothed[-1])
        if last < self.ratio * low or last - low < self.rise * start:
            return
        step = int(series.steps[best + width - 1])
        yield Finding(
            id=self.id,
            severity="error",
            tags=(found[0],),
            steps=(step, int(series.steps[-1])),
            numbers={"best": low, "last": last, "start": start},
            means=f"The training loss was best around step {step} ({low:.3g}) and has risen to {last:.3g} since:"
            " training"
            " diverged.",
            advice="Go back to a checkpoint before that step, lower the learning rate by 3 to 10 times, warm up"
            " longer, clip"
            " gradients.",
            source=self.source,
        )
