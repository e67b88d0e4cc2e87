"""Defines the rules that find a training loss that does not fall."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import ends, finite, smooth, width_for
from tbx_callbacks.runs.series import Run


@dataclass(frozen=True)
class Underfitting(Rule):
    """The training loss hardly falls over the whole run."""

    id: ClassVar[str] = "underfitting"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "Karpathy 2019, A Recipe for Training Neural Networks, karpathy.github.io/2019/04/25/recipe"
    compares_with_start: ClassVar[bool] = True

    min_points: int = 30  # fewer points may all lie in the warm-up
    improvement: float = 0.05  # a smaller share of the initial loss does not count as progress

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = TRAIN_LOSS.first(run)
        if entry is None or len(series := finite(entry[1])) < self.min_points:
            return
        start, end = ends(series.values)
        best = float(smooth(series.values, width_for(len(series))).min())
        if best < (1 - self.improvement) * start:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(entry[0],),
            steps=(int(series.steps[0]), int(series.steps[-1])),
            numbers={"start": start, "end": end},
            means=f"The training loss started at {start:.3g} and is {end:.3g} at step {series.steps[-1]}."
            " The model has learned next to nothing.",
            advice="Check that labels match their inputs and that the optimizer has the model's parameters."
            " Try to overfit one batch. Try learning rates 3 and 10 times higher and lower.",
            source=self.source,
        )


@dataclass(frozen=True)
class Plateau(Rule):
    """The training loss fell at first, then stopped falling while still high."""

    id: ClassVar[str] = "plateau"
    needs: ClassVar[tuple[Need, ...]] = (TRAIN_LOSS,)
    source: ClassVar[str] = "PyTorch, ReduceLROnPlateau: docs.pytorch.org/docs/stable/optim.html"
    compares_with_start: ClassVar[bool] = True
    only_notes: ClassVar[bool] = True

    min_points: int = 30
    learned: float = 0.05  # minimum fall before the plateau, as a share; less is underfitting
    still_high: float = 0.3  # share of the initial loss; a lower loss has converged
    share: float = 0.5  # of the points, without progress
    improvement: float = 0.05  # a smaller share of the loss does not count as progress

    def __call__(self, run: Run) -> Iterator[Finding]:
        entry = TRAIN_LOSS.first(run)
        if entry is None or len(series := finite(entry[1])) < self.min_points:
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
            tags=(entry[0],),
            steps=(step, int(series.steps[-1])),
            numbers={"best": best, "start": start},
            means=f"The training loss has stayed at about {best:.3g} since step {step}.",
            advice="If the loss should be lower, use a decaying learning rate, a larger model or cleaner labels."
            " Otherwise stop earlier.",
            source=self.source,
        )
