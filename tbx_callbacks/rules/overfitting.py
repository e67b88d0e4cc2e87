"""Defines the rules that compare training with evaluation, for each evaluation set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from tbx_callbacks.rules.base import Finding, Rule
from tbx_callbacks.rules.evaluation_sets import Entry, EvaluationSet, evaluation_sets
from tbx_callbacks.rules.required_series import EVAL_ACCURACY, EVAL_LOSS, TRAIN_ACCURACY, TRAIN_LOSS, Need
from tbx_callbacks.rules.series_stats import ends, finite, median, noise
from tbx_callbacks.rules.training_loss import fall_of, not_minimised, training_loss
from tbx_callbacks.runs.series import Run, Series


@dataclass(frozen=True)
class EvalDisagrees(Rule):
    """Evaluation is bad from the start and gets worse while training improves: labels or preprocessing differ."""

    id: ClassVar[str] = "eval_disagrees"
    code: ClassVar[str] = "TBX-EVAL-002"
    needs: ClassVar[tuple[Need, ...]] = (EVAL_LOSS, TRAIN_LOSS)
    source: ClassVar[str] = "Northcutt, Athalye and Mueller 2021, Pervasive Label Errors in Test Sets, arXiv:2103.14749"

    min_points: int = 3  # evaluations
    ratio: float = 1.3  # last evaluation loss over the first one
    train_fall: float = 0.3  # minimum fall of the training loss, as a share
    accuracy: float = 0.4  # the last evaluation accuracy is below this and below the first one; chance is 0.5
    above: float = 1.5  # or: the best evaluation loss over the initial training loss

    def excludes(self, run: Run) -> str | None:
        return not_minimised(run)

    def __call__(self, run: Run) -> Iterator[Finding]:
        train = training_loss(run)
        if train is None or not len(train[1]):
            return
        start, end = ends(train[1].values)
        for one in evaluation_sets(run):
            if one.loss is None or len(series := one.loss[1]) < self.min_points:
                continue
            first, last = float(series.values[0]), median(series.values[-2:])
            if (
                not self.is_wrong_from_start(one, train[1])
                or last < self.ratio * first
                or end > (1 - self.train_fall) * start
            ):
                continue
            yield Finding(
                id=self.id,
                severity="error",
                tags=(one.loss[0], train[0], *([one.accuracy[0]] if one.accuracy else [])),
                steps=(int(series.steps[0]), int(series.steps[-1])),
                numbers={"first": first, "last": last, "train_start": start, "train_end": end},
                means=f"The {one.title} rose from {first:.3g} to {last:.3g}"
                f" while the training loss fell from {start:.3g} to {end:.3g}."
                " The two data sets seem to disagree about the correct answers.",
                advice="Compare the label mapping (label2id) of both data sets. Then compare their preprocessing, and"
                " read ten evaluation examples with their predictions.",
                source=self.source,
            )

    def is_wrong_from_start(self, one: EvaluationSet, train: Series) -> bool:
        """Whether an evaluation set was never predicted well: its accuracy fell below chance, or its loss began above.

        The initial training loss stands for chance.
        """
        if one.loss is None:
            return False
        start, low = ends(train.values)[0], float(one.loss[1].values.min())
        if start > 0 and low > self.above * start:
            return True
        if one.accuracy is None or not len(values := one.accuracy[1].values):
            return False
        return bool(median(values[-2:]) < min(self.accuracy, values[0]))


@dataclass(frozen=True)
class Overfitting(Rule):
    """The evaluation loss rose while the training loss kept falling; reports the step.

    Evaluation sets that were never predicted well are left to `eval_disagrees`, as long as that rule is on.
    """

    id: ClassVar[str] = "overfitting"
    code: ClassVar[str] = "TBX-EVAL-001"
    needs: ClassVar[tuple[Need, ...]] = (EVAL_LOSS, TRAIN_LOSS)
    source: ClassVar[str] = "Prechelt 1998, Early Stopping - But When?, doi:10.1007/3-540-49430-8_3"

    min_points: int = 3  # evaluations
    after: int = 2  # evaluations after the best one
    ratio: float = 1.15  # last evaluation losses over the best one
    steady: float = 1.1  # the same if each evaluation since the best one was worse than the one before
    rise: float = 0.1  # minimum rise, as a share of the initial loss; half of it if it is steady
    train_fall: float = 0.1  # minimum fall of the training loss since then, as a share
    steady_fall: float = 0.3  # the same if the rise is steady
    signed_rise: float = 0.3  # negative losses: minimum rise, as a share of the fall before it
    deviations: float = 5.0  # the same in standard deviations of the noise, unless the rise is steady

    disagrees: ClassVar[EvalDisagrees | None] = EvalDisagrees()

    def beside(self, named: Mapping[str, Rule | None]) -> Overfitting:
        if EvalDisagrees.id not in named:
            return self
        copy = replace(self)
        object.__setattr__(copy, "disagrees", named[EvalDisagrees.id])  # on the copy: it is no threshold
        return copy

    def _is_left_out(self, one: EvaluationSet, train: Series) -> bool:
        return self.disagrees is not None and self.disagrees.is_wrong_from_start(one, train)

    def excludes(self, run: Run) -> str | None:
        return not_minimised(run)

    def __call__(self, run: Run) -> Iterator[Finding]:
        train = training_loss(run)
        if train is None or not len(train[1]):
            return
        for one in evaluation_sets(run):
            if one.loss is not None and len(one.loss[1]) >= self.min_points and not self._is_left_out(one, train[1]):
                yield from self._judge(one.title, one.loss, train)

    def _judge(self, title: str, evaluation: Entry, train: Entry) -> Iterator[Finding]:
        series = evaluation[1]
        values = series.values
        best = int(np.argmin(values))
        if len(values) - 1 - best < self.after:
            return
        low, last = float(values[best]), float(values[-self.after :].min())  # one bad evaluation is no trend
        steps = np.diff(values[best:])
        is_steady = bool((steps > 0).all())
        if is_steady:  # the usual run has three evaluations, one an epoch
            last = float(values[-1])
        before, now = _loss_at_and_end(train[1], int(series.steps[best]))
        start = ends(train[1].values)[0]
        if min(low, now) < 0:
            fall = fall_of(train[1].values)
            rises = (
                last - low > self.signed_rise * max(float(values[0]) - low, fall.scale)
                and (is_steady or last - low > self.deviations * noise(values))
                and before - now > self.train_fall * fall.scale > 0
            )
        else:
            # An evaluation set that was nearly perfect at first is compared with the initial training loss.
            scale = max(float(values[0]), start)
            rises = (
                last >= self.ratio * low and last - low >= self.rise * scale and now <= (1 - self.train_fall) * before
            ) or (
                is_steady
                and last >= self.steady * low
                and last - low >= self.rise / 2 * scale
                and now <= (1 - self.steady_fall) * before
            )
        if not rises:
            return
        step, following = int(series.steps[best]), int(series.steps[best + 1])
        yield Finding(
            id=self.id,
            severity="warning",
            tags=(evaluation[0], train[0]),
            steps=(step, int(series.steps[-1])),
            numbers={"best": low, "last": last, "train_at_best": before, "train_last": now},
            means=f"Overfitting, from between steps {step} and {following} on: the {title} rose from {low:.3g} to"
            f" {last:.3g} while the training loss fell from {before:.3g} to {now:.3g}. What the model"
            " learned since then holds for its training examples only.",
            advice=f"Keep the checkpoint of step {step} (load_best_model_at_end). To get further, use more data,"
            " dropout or weight decay, and look for wrong labels.",
            source=self.source,
        )


def _loss_at_and_end(train: Series, step: int) -> tuple[float, float]:
    """Returns the training loss at a step and at the end."""
    until = max(1, int(np.searchsorted(train.steps, step, side="right")))
    width = 5 if len(train) >= 30 else 3
    return median(train.values[max(0, until - width) : until]), ends(train.values)[1]


@dataclass(frozen=True)
class AccuracyGap(Rule):
    """Training accuracy is far above evaluation accuracy."""

    id: ClassVar[str] = "accuracy_gap"
    code: ClassVar[str] = "TBX-EVAL-003"
    needs: ClassVar[tuple[Need, ...]] = (EVAL_ACCURACY, TRAIN_ACCURACY)
    source: ClassVar[str] = "Goodfellow, Bengio and Courville 2016, Deep Learning, section 5.2, deeplearningbook.org"

    min_points: int = 3  # evaluations
    gap: float = 0.15

    def __call__(self, run: Run) -> Iterator[Finding]:
        train = TRAIN_ACCURACY.first(run)
        for one in evaluation_sets(run):
            if train is None or one.accuracy is None or len(series := one.accuracy[1]) < self.min_points:
                continue
            trained = finite(train[1])
            # A model may learn within a few steps: what it has learned since was not evaluated.
            trained_values = trained.values[trained.steps <= series.steps[-1]]
            eval_accuracy, train_accuracy = median(series.values[-2:]), ends(trained_values, 0.2, least=8)[1]
            if not train_accuracy - float(series.values[-2:].max()) >= self.gap:  # one bad evaluation is no gap
                continue
            yield Finding(
                id=self.id,
                severity="warning",
                tags=(train[0], one.accuracy[0]),
                steps=(int(series.steps[-1]),),
                numbers={"train": train_accuracy, "eval": eval_accuracy},
                means=f"Accuracy is {train_accuracy:.1%} in training and {eval_accuracy:.1%} in evaluation."
                " The model has memorized the training data, or the two data sets differ.",
                advice="Check that both data sets have the same source and preprocessing. If they have, use more data,"
                " fewer epochs or dropout.",
                source=self.source,
            )
