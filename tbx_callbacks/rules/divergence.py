"""Defines the rules that find spikes and divergence of the training loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import ends, finite, median, noise, smooth, width_for
from tbx_callbacks.runs.series import Floats, Run


@dataclass(frozen=True)
class LossSpike(Rule):
    """The training loss jumps for a few points and recovers."""

    id: ClassVar[str] = "loss_spike"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "Chowdhery et al. 2022, PaLM, section 5.1, arXiv:2204.02311"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 30  # a window and some points after it
    window: int = 20  # previous points for the reference median; the noise is estimated from three times as many
    ratio: float = 2.0  # loss over the reference median
    deviations: float = 10.0  # above the reference median; losses of single batches have long tails
    rise: float = 0.75  # minimum rise, as a share of the initial loss, so that ripples near zero do not count

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = TRAIN_LOSS.first(run)
        if entry is None or len(series := finite(entry[1])) < self.min_points:
            return
        tag, values = entry[0], series.values
        start = median(values[:3])
        spikes = [index for index in range(self.window, len(values) - 1) if self._is_spike(values, index, start)]
        spikes = [index for index in spikes if _recovers(values, index, self.window, self.ratio)]
        if not spikes:
            return
        first = spikes[0]
        before = median(values[first - self.window : first])
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(tag,),
            steps=tuple(int(series.steps[index]) for index in spikes[:5]),
            numbers={"loss": float(values[first]), "median_before": before, "points": len(spikes)},
            means=f"The training loss jumped from {before:.3g} to {values[first]:.3g} at step {series.steps[first]}"
            " and recovered. One or a few updates were harmful.",
            advice="Look at the batches just before this step. Clip gradients by norm or lower the learning rate.",
            source=self.source,
        )

    def _is_spike(self, values: Floats, index: int, start: float) -> bool:
        before = values[index - self.window : index]
        middle = median(before)
        height = values[index] - middle
        return bool(
            values[index] > self.ratio * middle
            and height > self.deviations * noise(values[max(0, index - 3 * self.window) : index])
            and height > self.rise * start
        )


def _recovers(values: Floats, index: int, window: int, ratio: float) -> bool:
    """Whether the loss falls back below the spike threshold for up to three points in a row."""
    after = values[index + 1 :]
    return bool(smooth(after, min(3, len(after))).min() <= ratio * median(values[index - window : index]))


@dataclass(frozen=True)
class Divergence(Rule):
    """The training loss rises and does not recover."""

    id: ClassVar[str] = "divergence"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "Mosbach, Andriushchenko and Klakow 2021, arXiv:2006.04884"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 20
    ratio: float = 1.5  # last loss over the best one, both medians of a window
    rise: float = 0.3  # minimum rise, as a share of the initial loss

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = TRAIN_LOSS.first(run)
        if entry is None or len(series := finite(entry[1])) < self.min_points:
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
            tags=(entry[0],),
            steps=(step, int(series.steps[-1])),
            numbers={"best": low, "last": last, "start": start},
            means=f"The training loss was best around step {step} ({low:.3g}) and has risen to {last:.3g} since."
            " The training diverged.",
            advice="Go back to a checkpoint before that step. Lower the learning rate by 3 to 10 times,"
            " warm up longer, or clip gradients.",
            source=self.source,
        )
