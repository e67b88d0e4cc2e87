"""Defines the rules that compare training with evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.required_series import EVAL_ACCURACY, EVAL_LOSS, TRAIN_ACCURACY, TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import ends, finite, median
from tbx_callbacks.runs.series import Run, Series


@dataclass(frozen=True)
class Overfitting(Rule):
    """The evaluation loss rose while the training loss kept falling; reports the step."""

    id: ClassVar[str] = "overfitting"
    needs: ClassVar[tuple[Need, ...]] = (EVAL_LOSS, TRAIN_LOSS)
    source: ClassVar[str] = "Prechelt 1998, Early Stopping - But When?, doi:10.1007/3-540-49430-8_3"

    min_points: int = 3  # evaluations
    after: int = 2  # evaluations after the best one
    ratio: float = 1.15  # last evaluation losses over the best one
    rise: float = 0.1  # minimum rise, as a share of the first evaluation loss
    train_fall: float = 0.1  # minimum fall of the training loss since then, as a share

    def __call__(self, run: Run) -> Iterator[Finding]:
        evaluation, train = EVAL_LOSS.first(run), TRAIN_LOSS.first(run)
        if (
            evaluation is None
            or train is None
            or len(series := finite(evaluation[1])) < self.min_points
            or below_chance(run)
        ):
            return
        best = int(np.argmin(series.values))
        if len(series) - 1 - best < self.after:
            return
        low, last = float(series.values[best]), median(series.values[-self.after :])
        before, now = _loss_at_and_end(finite(train[1]), int(series.steps[best]))
        if last < self.ratio * low or last - low < self.rise * series.values[0] or now > (1 - self.train_fall) * before:
            return
        step = int(series.steps[best])
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(evaluation[0], train[0]),
            steps=(step, int(series.steps[-1])),
            numbers={"best": low, "last": last, "train_at_best": before, "train_last": now},
            means=f"Overfitting since step {step}: the evaluation loss rose from {low:.3g} to {last:.3g}"
            f" while the training loss fell from {before:.3g} to {now:.3g}.",
            advice=f"Keep the checkpoint of step {step} (load_best_model_at_end) or stop earlier."
            " Use more data, dropout or weight decay. Look for wrong labels.",
            source=self.source,
        )


def _loss_at_and_end(train: Series, step: int) -> tuple[float, float]:
    """Returns the training loss at a step and at the end."""
    until = int(np.searchsorted(train.steps, step, side="right"))
    return median(train.values[max(0, until - 5) : until]), ends(train.values)[1]


@dataclass(frozen=True)
class EvalDisagrees(Rule):
    """Evaluation gets worse from the start while training improves: labels or preprocessing differ."""

    id: ClassVar[str] = "eval_disagrees"
    needs: ClassVar[tuple[Need, ...]] = (EVAL_LOSS, TRAIN_LOSS, EVAL_ACCURACY)
    source: ClassVar[str] = "Northcutt, Athalye and Mueller 2021, Pervasive Label Errors in Test Sets, arXiv:2103.14749"

    min_points: int = 3  # evaluations
    ratio: float = 1.3  # last evaluation loss over the first one
    train_fall: float = 0.3  # minimum fall of the training loss, as a share
    accuracy: float = 0.4  # the last evaluation accuracy is below this and below the first one; chance is 0.5

    def __call__(self, run: Run) -> Iterator[Finding]:
        evaluation, train = EVAL_LOSS.first(run), TRAIN_LOSS.first(run)
        if evaluation is None or train is None or len(series := finite(evaluation[1])) < self.min_points:
            return
        first, last = float(series.values[0]), median(series.values[-2:])
        start, end = ends(finite(train[1]).values)
        accuracy = below_chance(run, self.accuracy)
        if accuracy is None or last < self.ratio * first or end > (1 - self.train_fall) * start:
            return
        yield Finding(
            id=self.id,
            severity="error",
            tags=(evaluation[0], train[0], accuracy),
            steps=(int(series.steps[0]), int(series.steps[-1])),
            numbers={"first": first, "last": last, "train_start": start, "train_end": end},
            means=f"The evaluation loss rose from {first:.3g} to {last:.3g}"
            f" while the training loss fell from {start:.3g} to {end:.3g}."
            " The two data sets seem to disagree about the correct answers.",
            advice="Compare the label mapping (label2id) and the preprocessing of both data sets."
            " Read ten evaluation examples with their predictions.",
            source=self.source,
        )


def below_chance(run: Run, accuracy: float = EvalDisagrees.accuracy) -> str | None:
    """Returns the tag of an evaluation accuracy that fell below `accuracy` and below its first value, else None."""
    evaluation = EVAL_ACCURACY.first(run)
    if evaluation is None:
        return None
    values = finite(evaluation[1]).values
    return evaluation[0] if len(values) and median(values[-2:]) < min(accuracy, values[0]) else None


@dataclass(frozen=True)
class AccuracyGap(Rule):
    """Training accuracy is far above evaluation accuracy."""

    id: ClassVar[str] = "accuracy_gap"
    needs: ClassVar[tuple[Need, ...]] = (EVAL_ACCURACY, TRAIN_ACCURACY)
    source: ClassVar[str] = "Goodfellow, Bengio and Courville 2016, Deep Learning, section 5.2, deeplearningbook.org"

    min_points: int = 3  # evaluations
    gap: float = 0.15

    def __call__(self, run: Run) -> Iterator[Finding]:
        evaluation, train = EVAL_ACCURACY.first(run), TRAIN_ACCURACY.first(run)
        if evaluation is None or train is None or len(series := finite(evaluation[1])) < self.min_points:
            return
        eval_accuracy, train_accuracy = median(series.values[-2:]), ends(finite(train[1]).values, 0.2, least=8)[1]
        if not train_accuracy - eval_accuracy >= self.gap:
            return
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(train[0], evaluation[0]),
            steps=(int(series.steps[-1]),),
            numbers={"train": train_accuracy, "eval": eval_accuracy},
            means=f"Accuracy is {train_accuracy:.1%} in training and {eval_accuracy:.1%} in evaluation."
            " The model has memorized the training data, or the two data sets differ.",
            advice="Check that both data sets have the same source and preprocessing."
            " Use more data, fewer epochs or dropout.",
            source=self.source,
        )
