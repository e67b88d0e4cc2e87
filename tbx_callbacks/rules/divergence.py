"""Defines the rules that find spikes and divergence of the training loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import LEARNING_RATE, TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import finite, interval, median, noise, smooth, width_for
from tbx_callbacks.rules.training_loss import exploded_from, fall_of, not_minimised, training_loss
from tbx_callbacks.runs.series import Floats, Run, Series


@dataclass(frozen=True)
class LossSpike(Rule):
    """The training loss jumps for a few points and recovers."""

    id: ClassVar[str] = "loss_spike"
    code: ClassVar[str] = "TBX-LOSS-002"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "Chowdhery et al. 2022, PaLM, section 5.1, arXiv:2204.02311"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 20
    window: int = 20  # previous points for the reference median; the noise is estimated from three times as many
    ratio: float = 2.0  # loss over the reference median, which only losses above zero have
    deviations: float = 10.0  # above the reference median; losses of single batches have long tails
    rise: float = 0.75  # minimum rise, as a share of the initial loss, so that ripples near zero do not count

    def excludes(self, run: Run) -> str | None:
        return not_minimised(run)

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = training_loss(run)
        if entry is None or len(series := entry[1]) < self.min_points:
            return
        tag, values = entry[0], series.values
        first_index = self.window // 2  # half a window suffices at the start
        spikes = [index for index in range(first_index, len(values) - 1) if self._is_spike(values, index)]
        spikes = [index for index in spikes if self._recovers(values, index)]
        if not spikes:
            return
        first = spikes[0]
        before = median(self._before(values, first))
        restart = _restart_before(run, int(series.steps[max(0, first - 3)]), int(series.steps[first]))
        cause = f" just after the learning rate restarted at {restart:.3g}" if restart else ""
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(tag,),
            steps=tuple(int(series.steps[index]) for index in spikes[:5]),
            numbers={"loss": float(values[first]), "median_before": before, "points": len(spikes)},
            means=f"The training loss jumped from {before:.3g} to {values[first]:.3g} {interval(series.steps, first)}"
            f"{cause} and recovered. One or a few updates were harmful.",
            advice="Let the learning rate restart at a lower peak. A warm-up after each restart helps too."
            if restart
            else "Look at the batches just before this step. If they are sound, clip gradients by norm or lower the"
            " learning rate.",
            source=self.source,
        )

    def _before(self, values: Floats, index: int) -> Floats:
        return values[max(0, index - self.window) : index]

    def _is_spike(self, values: Floats, index: int) -> bool:
        middle = median(self._before(values, index))
        height = values[index] - middle
        is_signed = bool((values[:index] < 0).any())
        if not is_signed and values[index] <= self.ratio * middle:
            return False
        if height <= self.deviations * noise(values[max(0, index - 3 * self.window) : index]):
            return False
        scale = fall_of(values[:index]).scale  # the slowest test comes last: live rules run at every point
        return bool(scale > 0 and height > self.rise * scale)

    def _recovers(self, values: Floats, index: int) -> bool:
        """Whether the loss falls back below the spike threshold for up to three points in a row.

        Negative losses have no ratio; they must lose half of the jump.
        """
        after, middle = values[index + 1 :], median(self._before(values, index))
        is_signed = bool((values[:index] < 0).any())
        threshold = middle + (values[index] - middle) / 2 if is_signed else self.ratio * middle
        return bool(smooth(after, min(3, len(after))).min() <= threshold)


@dataclass(frozen=True)
class Divergence(Rule):
    """The training loss rises and does not recover.

    A rise in the first few steps is the finding of `learning_rate_too_high` where learning rates are known.
    """

    id: ClassVar[str] = "divergence"
    code: ClassVar[str] = "TBX-LOSS-001"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "Mosbach, Andriushchenko and Klakow 2021, arXiv:2006.04884"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 8
    ratio: float = 1.5  # last loss over the best one, both medians of a window; only losses above zero have a ratio
    rise: float = 0.3  # minimum rise, as a share of the initial loss
    signed_rise: float = 1.5  # the same as a share of the fall before it, if losses are negative: they may wander
    deviations: float = 3.0  # minimum rise in standard deviations of the noise before it
    many: float = 2.0  # a last loss of less than so many times the first one is a warning: one batch may be easy
    recovery: float = 0.1  # a loss that rose in the first steps has recovered if it is lower than before by this share

    def excludes(self, run: Run) -> str | None:
        return not_minimised(run)

    def lacks(self, run: Run) -> str | None:
        return _lacks_scale(run)

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = training_loss(run)
        if entry is None or len(series := entry[1]) < self.min_points:
            return
        width = width_for(len(series))
        smoothed, fall = smooth(series.values, width), fall_of(series.values)
        first = None if LEARNING_RATE.first(run) else exploded_from(series.values)
        if first is not None and fall.end > (1 - self.recovery) * first:
            yield self._at_once(entry, first, fall.end)
            return
        best = int(np.argmin(smoothed))
        low, last, start = float(smoothed[best]), float(smoothed[-1]), fall.start
        before = noise(series.values[: max(best + width, self.min_points)])
        if (
            fall.scale <= 0
            or (not fall.is_signed and last < self.ratio * low)
            or last - low < (self.signed_rise if fall.is_signed else self.rise) * fall.scale
            or last - low <= self.deviations * before
            or np.quantile(series.values[-width:], 0.25) <= np.quantile(series.values[best : best + width], 0.75)
        ):
            return
        step = int(series.steps[best + width - 1])
        yield Finding(
            id=self.id,
            severity="error",
            tags=(entry[0],),
            steps=(step, int(series.steps[-1])),
            numbers={"best": low, "last": last, "start": start},
            means=f"The training loss was best around step {step} ({low:.3g}) and has risen to {last:.3g} since."
            " The training diverged: its updates since then made the model worse.",
            advice=f"Go back to a checkpoint before step {step} and divide the learning rate by 3. If it diverges"
            " again, warm up longer or clip gradients.",
            source=self.source,
        )

    def _at_once(self, entry: tuple[str, Series], first: float, end: float) -> Finding:
        tag, series = entry
        index = int(np.argmax(series.values > 1.5 * first))
        top = int(np.argmax(series.values))
        return Finding(
            id=self.id,
            severity="error" if end > self.many * first else "warning",
            tags=(tag,),
            steps=(int(series.steps[index]), int(series.steps[-1])),
            numbers={"first": first, "highest": float(series.values[top]), "last": end},
            means=f"The training loss rose at once from {first:.3g}, up to {series.values[top]:.3g} at step"
            f" {series.steps[top]}, and is {end:.3g} at the end. The first steps destroyed more than the others have"
            " learned.",
            advice="Divide the learning rate by 10. If that does not suffice, divide it by 10 again, and warm up.",
            source=self.source,
        )


def _restart_before(run: Run, first: int, last: int) -> float | None:
    """Returns the learning rate after a restart between two steps: it fell, and then at least doubled; else None."""
    rates = LEARNING_RATE.first(run)
    if rates is None:
        return None
    series = finite(rates[1])
    for index in range(2, len(series)):
        before, at, after = series.values[index - 2 : index + 1]
        if first <= series.steps[index] <= last and at < before and after > 2 * at:
            return float(after)
    return None


def _lacks_scale(run: Run) -> str | None:
    entry = training_loss(run)
    if entry is None or len(values := entry[1].values) < 3 or (values > 0).all() or fall_of(values).scale > 0:
        return None
    return "a loss above zero, or one that has clearly fallen"
