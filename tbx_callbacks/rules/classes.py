"""Defines the rule that finds classes that a classifier never predicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks._text import count
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import LABEL_SHARES, LABELS, PREDICTED_SHARES, TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import median
from tbx_callbacks.rules.training_loss import has_learned, points_since_peak, rate_share, training_loss
from tbx_callbacks.runs.series import Run, Series


@dataclass(frozen=True)
class ClassNeverPredicted(Rule):
    """A class of the labels is never predicted in the last third of the run, although the loss has fallen.

    A model that has learned nothing predicts one class only; `underfitting` names that. A model that still learns may
    not have come to the class: the loss must have stopped falling, or the learning rate must have come down.
    """

    id: ClassVar[str] = "class_never_predicted"
    code: ClassVar[str] = "TBX-DATA-002"
    needs: ClassVar[tuple[Need, ...]] = (LABEL_SHARES, PREDICTED_SHARES, LABELS)
    source: ClassVar[str] = "He and Garcia 2009, Learning from Imbalanced Data, doi:10.1109/TKDE.2008.239"

    min_points: int = 30  # 15 of them since the learning rate reached its peak; before that, a model has only begun
    labels: int = 20  # of the class, in the last third of the points
    learned: float = 0.05  # share by which the training loss fell
    improvement: float = 0.05  # a fall of this share from the middle third to the last one is progress
    low_rate: float = 0.25  # share of the peak; below it the run is nearly over

    def lacks(self, run: Run) -> str | None:
        loss = training_loss(run)
        if loss is None:
            return "a training loss that must fall"
        if points_since_peak(run, loss[1]) < self.min_points / 2:
            return f"{self.min_points / 2:g} points since the learning rate reached its peak"
        return None

    def _is_learning(self, run: Run) -> bool:
        """Whether the training loss still falls, at a learning rate that is not low."""
        entry, rate = training_loss(run), rate_share(run)
        if entry is None or (rate is not None and rate < self.low_rate):
            return False
        values = entry[1].values
        third = len(values) // 3
        middle, last = median(values[-2 * third : -third]), median(values[-third:])
        return middle - last > self.improvement * middle

    def __call__(self, run: Run) -> Iterator[Finding]:
        if self.lacks(run) is not None or not has_learned(run, self.learned) or self._is_learning(run) or _is_lost(run):
            return
        labels, predicted = LABELS.first(run), PREDICTED_SHARES.all(run)
        missing: dict[str, tuple[float, float, Series]] = {}
        for tag, series in LABEL_SHARES.all(run).items():
            name = tag.rpartition("/")[2]
            guesses = predicted.get(f"{tags.PREDICTED_SHARE}/{name}")
            if labels is None or guesses is None or not _belong_together(series, guesses, labels[1]):
                continue
            last = slice(-(len(series) // 3), None)
            if len(series) < self.min_points or guesses.values[last].any():
                continue
            number = float(np.dot(series.values[last], labels[1].values[last]))
            if number >= self.labels:
                missing[name] = number, number / float(labels[1].values[last].sum()), series
        if not missing:
            return
        most = max(missing, key=lambda name: missing[name][0])
        number, share, series = missing[most]
        first, end = int(series.steps[-(len(series) // 3)]), int(series.steps[-1])
        others = (
            f", and so {'was' if len(missing) == 2 else 'were'} {count(len(missing) - 1, 'other class')}"
            if len(missing) > 1
            else ""
        )
        yield Finding(
            id=self.id,
            severity="warning",
            tags=tuple(f"{tags.PREDICTED_SHARE}/{name}" for name in missing),
            steps=(first, end),
            numbers={"labels": number, "share": share, "classes": len(missing)},
            means=f"Class {most}, {share:.1%} of the labels, was never predicted from step {first} to {end}, among"
            f" {number:.0f} labels of it{others}. The model answers as if it did not exist, which the accuracy hides.",
            advice="Weight the loss by class. If that does not help, check whether its inputs can be told apart"
            " from the others and its labels are right. Show it more often, and watch its recall in the evaluation.",
            source=self.source,
        )


def _is_lost(run: Run) -> bool:
    """Whether the training loss is no number in the end: its predictions then mean nothing."""
    entry = TRAIN_LOSS.first(run)
    values = entry[1].values if entry else np.empty(0)
    return not np.isfinite(values[-(len(values) // 3) :]).all()


def _belong_together(*series: Series) -> bool:
    """Whether all series have the same steps and finite values."""
    return all(np.array_equal(one.steps, series[0].steps) and bool(np.isfinite(one.values).all()) for one in series)
