"""A training loss that does not go down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.needs import TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import ends, finite, smooth, width_for
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class Underfitting(Rule):
    """The training loss ends where it began."""

    id: ClassVar[str] = "underfitting"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "Karpathy 2019, A Recipe for Training Neural Networks, karpathy.github.io/2019/04/25/recipe"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 30  # fewer may all lie in the warm-up
    improvement: float = 0.05  # less than this share of the loss at the start counts as none

    def __call__(self, run: Run) -> Iterator[Finding]:
        found = TRAIN_LOSS.first(run)
        if found is None or len(series := finite(found[1])) < self.min_points:
            return
        start, end = ends(series.values)
        best = float(smooth(series.values, width_for(len(series))).min())
        if best < (1 - self.improvement) * start:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(found[0],),
            steps=(int(series.steps[0]), int(series.steps[-1])),
            numbers={"start": start, "end": end},
            means=f"The training loss began at {start:.3g} and is {end:.3g} at step {series.steps[-1]}: the model has"
            " learned next to nothing.",
            advice="Check that labels belong to their texts and that the optimizer holds the model's parameters; try to"
            " overfit one batch; try learning rates 3 and 10 times higher and lower.",
            source=self.source,
        )


@dataclass(frozen=True)
class Plateau(Rule):
    """The training loss went down, and then no more though it is still high."""

    id: ClassVar[str] = "plateau"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "PyTorch, ReduceLROnPlateau: docs.pytorch.org/docs/stable/optim.html"
    compares_with_start: ClassVar[bool] = True
    only_notes: ClassVar[bool] = True

    min_points: int = 30
    learned: float = 0.05  # it fell by this share first; else it is underfitting
    still_high: float = 0.3  # share of the loss at the start; lower, it is done rather than stuck
    share: float = 0.5  # of the points, without progress
    improvement: float = 0.05  # less than this share of the loss is no progress

    def __call__(self, run: Run) -> Iterator[Finding]:
        found = TRAIN_LOSS.first(run)
        if found is None or len(series := finite(found[1])) < self.min_points:
            return
        width = width_for(len(series))
        smoothed = np.minimum.accumulate(smooth(series.values, width))
        start, best = ends(series.values)[0], float(smoothed[-1])
        if best > (1 - self.learned) * start or best < self.still_high * start:
            return
        reached = int(np.argmax(smoothed <= best * (1 + self.improvement)))
        if len(smoothed) - reached < self.share * len(series):
            return
        step = int(series.steps[reached + width - 1])
        yield Finding(
            id=self.id,
            severity="note",
            tags=(found[0],),
            steps=(step, int(series.steps[-1])),
            numbers={"best": best, "start": start},
            means=f"The training loss has stayed at about {best:.3g} since step {step}.",
            advice="If it should be lower: lower the learning rate from there on (a schedule that decays), a larger"
            " model,"
            " or cleaner labels; else stop earlier.",
            source=self.source,
        )
