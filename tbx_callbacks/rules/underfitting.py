"""Defines the rules that find a training loss that does not fall."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.evaluation_sets import evaluation_sets
from tbx_callbacks.rules.required_series import TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import median, noise, smooth, width_for
from tbx_callbacks.rules.training_loss import (
    exploded_from,
    fall_of,
    has_no_scale,
    not_minimised,
    points_since_peak,
    rate_share,
    training_loss,
)
from tbx_callbacks.runs.series import Run, Series


@dataclass(frozen=True)
class Underfitting(Rule):
    """The training loss hardly falls over the whole run.

    This is a note for a short run, which may be too short for random weights.
    """

    id: ClassVar[str] = "underfitting"
    code: ClassVar[str] = "TBX-LOSS-003"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "Karpathy 2019, A Recipe for Training Neural Networks, karpathy.github.io/2019/04/25/recipe"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 8
    enough: int = 30  # with fewer points the learning rate must have come down, else they may all lie in the warm-up
    improvement: float = 0.05  # a smaller share of the initial loss does not count as progress
    accuracy: float = 0.9  # an accuracy above this needs no progress
    gained: float = 0.1  # an accuracy that rose by this has made progress, even if the loss hardly shows it

    def excludes(self, run: Run) -> str | None:
        return not_minimised(run) or has_no_scale(run)

    def lacks(self, run: Run) -> str | None:
        entry = training_loss(run)
        if entry is None or len(series := entry[1]) < self.min_points:
            return f"{self.min_points} finite points of the training loss"
        fall = fall_of(series.values)
        if fall.low < (1 - self.improvement) * fall.start or self._is_long_enough(run, series):
            return None
        return f"{self.enough} points of the training loss, or a learning rate that has come down"

    def _is_long_enough(self, run: Run, series: Series) -> bool:
        if len(series) >= self.enough:
            return points_since_peak(run, series) >= self.enough / 2
        share = rate_share(run)
        return share is not None and share < 0.25

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = training_loss(run)
        if entry is None or len(series := entry[1]) < self.min_points or not self._is_long_enough(run, series):
            return
        fall = fall_of(series.values)
        start, end = fall.start, fall.end
        if fall.is_signed or start <= 0 or fall.low < (1 - self.improvement) * start or self._is_accurate(run):
            return
        if exploded_from(series.values) is not None:  # the first median is not the loss at the start
            return
        yield Finding(
            id=self.id,
            severity="warning" if len(series) >= self.enough else "note",
            tags=(entry[0],),
            steps=(int(series.steps[0]), int(series.steps[-1])),
            numbers={"start": start, "end": end},
            means=f"The training loss started at {start:.3g} and is {end:.3g} at step {series.steps[-1]}."
            " The model has learned next to nothing.",
            advice="Train on one batch only, until its loss is near zero. If that fails, check that the optimizer has"
            " the model's parameters, and try learning rates 10 times higher and lower. If it works, check that labels"
            " match their inputs.",
            source=self.source,
        )

    def _is_accurate(self, run: Run) -> bool:
        """Whether an evaluation set shows that the model has learned, or that there is nothing left to learn."""
        for one in evaluation_sets(run):
            if one.accuracy is None or not len(values := one.accuracy[1].values):
                continue
            last, losses = median(values[-2:]), one.loss[1].values if one.loss else np.empty(0)
            has_gained = last >= values[0] + self.gained and len(losses) and losses[-1] < losses[0]
            if last >= self.accuracy or has_gained:
                return True
        return False


@dataclass(frozen=True)
class Plateau(Rule):
    """The training loss fell at first, then stopped falling while still high."""

    id: ClassVar[str] = "plateau"
    code: ClassVar[str] = "TBX-LOSS-004"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "PyTorch, ReduceLROnPlateau: docs.pytorch.org/docs/stable/optim.html"
    compares_with_start: ClassVar[bool] = True
    only_notes: ClassVar[bool] = True

    min_points: int = 30
    learned: float = 0.05  # minimum fall before the plateau, as a share; less is underfitting
    still_high: float = 0.3  # share of the initial loss; a lower loss has converged
    share: float = 0.5  # of the points, without progress
    improvement: float = 0.05  # a smaller share of the loss does not count as progress
    deviations: float = (
        1.0  # a fall between the thirds of the plateau, in standard deviations of the noise, is progress
    )

    def excludes(self, run: Run) -> str | None:
        return not_minimised(run) or has_no_scale(run)

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = training_loss(run)
        if entry is None or len(series := entry[1]) < self.min_points:
            return
        width = width_for(len(series))
        smoothed = np.minimum.accumulate(smooth(series.values, width))
        fall, best = fall_of(series.values), float(smoothed[-1])
        if (
            fall.scale <= 0
            or fall.is_signed
            or best > (1 - self.learned) * fall.start
            or best < self.still_high * fall.start
            or exploded_from(series.values) is not None  # it fell from a height that it had reached before
        ):
            return
        start = fall.start
        reached = int(np.argmax(smoothed <= best * (1 + self.improvement)))
        flat = series.values[reached + width - 1 :]
        if len(smoothed) - reached < self.share * len(series):
            return
        third = len(flat) // 3
        if median(flat[:third]) - median(flat[-third:]) > self.deviations * noise(flat):
            return
        step = int(series.steps[reached + width - 1])
        yield Finding(
            id=self.id,
            severity="note",
            tags=(entry[0],),
            steps=(step, int(series.steps[-1])),
            numbers={"best": best, "start": start},
            means=f"The training loss fell from {start:.3g} and has stayed at about {best:.3g} since step {step}."
            " The steps since then changed nothing that the loss shows.",
            advice="Let the learning rate decay, if the loss should be lower. If it does already, use a larger model or"
            " cleaner labels, or stop earlier.",
            source=self.source,
        )
