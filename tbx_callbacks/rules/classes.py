"""Defines the rule that finds classes that a classifier never predicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks import tags
from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import LABEL_SHARES, LABELS, PREDICTED_SHARES, Need
from tbx_callbacks.rules.training_loss import has_learned, points_since_peak, training_loss
from tbx_callbacks.runs.series import Run, Series


@dataclass(frozen=True)
class ClassNeverPredicted(Rule):
    """A class of the labels is never predicted in the last third of the run, although the loss has fallen.

    A model that has learned nothing predicts one class only; `underfitting` names that. A model that has only begun
    predicts the frequent classes first.
    """

    id: ClassVar[str] = "class_never_predicted"
    code: ClassVar[str] = "TBX-DATA-002"
    needs: ClassVar[tuple[Need, ...]] = (LABEL_SHARES, PREDICTED_SHARES, LABELS)
    source: ClassVar[str] = "He and Garcia 2009, Learning from Imbalanced Data, doi:10.1109/TKDE.2008.239"

    min_points: int = 30  # 15 of them since the learning rate reached its peak; before that, a model has only begun
    labels: int = 20  # of the class, in the last third of the points
    learned: float = 0.05  # share by which the training loss fell

    def lacks(self, run: Run) -> str | None:
        loss = training_loss(run)
        if loss is None:
            return "a training loss that must fall"
        if points_since_peak(run, loss[1]) < self.min_points / 2:
            return f"{self.min_points / 2:g} points since the learning rate reached its peak"
        return None

    def __call__(self, run: Run) -> Iterator[Finding]:
        if self.lacks(run) is not None or not has_learned(run, self.learned):
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
        others = f", and so were {len(missing) - 1} other classes" if len(missing) > 1 else ""
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


def _belong_together(*series: Series) -> bool:
    """Whether all series have the same steps and finite values."""
    return all(np.array_equal(one.steps, series[0].steps) and bool(np.isfinite(one.values).all()) for one in series)
