"""Defines the metrics that report losses, training accuracy, learning rates and the loss scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks._model.parameters import PerGroup
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.values import Max, Mean, Sum
from tbx_callbacks.tags import (
    AMP_SCALE,
    AMP_SKIPPED_STEPS,
    EVAL,
    LABEL_SHARE,
    LEARNING_RATE,
    PREDICTED_SHARE,
    TRAIN,
    TRAIN_ACCURACY,
    TRAIN_LABELS,
    TRAIN_LOSS,
)


@dataclass(frozen=True)
class Loss(Metric):
    """Loss and every other number that the trainer logs, unchanged.

    The trainer's loss is the mean over the steps since its previous log. Evaluation metrics and the final summary are
    included. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {TRAIN_LOSS: "", f"{TRAIN}/<name>": "", f"{EVAL}/<name>": ""}
    events: ClassVar[frozenset[str]] = frozenset({"log"})

    def __call__(self, context: Context) -> Values:
        return {tag: Text(value) if isinstance(value, str) else Max(value) for tag, value in context.logs.items()}


@dataclass(frozen=True)
class Outputs(Metric):
    """Mean since the last point of every further loss that the model returns: each scalar `*loss*` besides `loss`.

    The scalars of a mapping such as `loss_dict` are further losses too.
    Models with several tasks or auxiliary losses return such scalars in a mapping or a dataclass. With Lightning, the
    outputs of `training_step` count too. A name that the trainer logs itself is left to the trainer. The mean covers
    all training micro-batches of all ranks. Cost: a small sum every few micro-batches.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{TRAIN}/<name>": ""}
    needs: ClassVar[frozenset[str]] = frozenset({"losses"})
    cost: ClassVar[str] = "a small sum every few micro-batches"

    def __call__(self, context: Context) -> Values:
        return {f"{TRAIN}/{name}": mean for name, mean in context.interval.extra_losses.items()}


@dataclass(frozen=True)
class TrainAccuracy(Metric):
    """Share of correct predictions on the training batches since the last point, for classification heads.

    Uses the model's `logits` in training mode: `[batch, classes]`, or `[batch, length, classes]` where labels of -100
    are left out. Dropout is on and weights change between steps, so this is not an evaluation.

    Logits are the model's output of that name, the element after the loss in a tuple, or a single returned tensor. With
    Lightning, logits that `training_step` returns take precedence. Labels are those passed to the model, else those of
    the batch. The batch's labels need an attached callback with the Hugging Face Trainer. With Lightning they need
    batches `(inputs, labels)` or a name like `labels`.

    Not written for regression, multi-label targets, and logits or labels that cannot be found. Not written for language
    models either (token logits over the vocabulary or more columns), because their labels may be shifted. One warning
    gives the reason.

    With at most 20 classes, the share of each class among the predictions and among the labels is written too, and the
    number of labels: a class that is never predicted does not show in the accuracy. A class has the number of its
    logit. All counts are added over ranks. Cost: an argmax per micro-batch; a few sums every few micro-batches.
    """

    tags: ClassVar[Mapping[str, str]] = {
        TRAIN_ACCURACY: "share of labels",
        f"{PREDICTED_SHARE}/{{group}}": "share of predictions",
        f"{LABEL_SHARE}/{{group}}": "share of labels",
        TRAIN_LABELS: "labels",
    }
    needs: ClassVar[frozenset[str]] = frozenset({"predictions"})
    cost: ClassVar[str] = "an argmax of the logits"

    def __call__(self, context: Context) -> Values:
        interval = context.interval
        accuracy: Values = {TRAIN_ACCURACY: Mean(interval.hits, interval.predictions)}
        if (counts := interval.class_counts) is None:
            return accuracy
        names, labels = [str(number) for number in range(counts.shape[1])], counts[1].sum()
        shares = {PREDICTED_SHARE: counts[0], LABEL_SHARE: counts[1]}
        means = {f"{tag}/{{group}}": Mean(PerGroup(names, of_class), labels) for tag, of_class in shares.items()}
        return {**accuracy, **means, TRAIN_LABELS: Sum(labels)}


@dataclass(frozen=True)
class LearningRate(Metric):
    """Learning rate that the step used, for every parameter group of every optimizer.

    A group is called by its `name`, or by its number: `pg1`, `pg2`. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{LEARNING_RATE}/<Optimizer>/<group>": ""}

    def __call__(self, context: Context) -> Values:
        return {f"{LEARNING_RATE}/{name}": Max(rate) for name, rate in context.learning_rates.items()}


@dataclass(frozen=True)
class Amp(Metric):
    """Loss scale of float16 mixed precision, and the steps that were skipped because gradients overflowed.

    `amp/scale` is the loss scale after this step. `amp/skipped_steps` counts skipped steps since the last point. Both
    need a GradScaler. Steps are numbered as in the trainer: the Hugging Face and the Lightning Trainer number skipped
    steps too. A loop numbers a skipped step only if the optimizer is fused, because only then is it called. Both values
    are the same on every rank. Cost: a copy of one number per micro-batch.
    """

    tags: ClassVar[Mapping[str, str]] = {AMP_SCALE: "", AMP_SKIPPED_STEPS: "steps"}
    needs: ClassVar[frozenset[str]] = frozenset({"loss_scale"})

    def __call__(self, context: Context) -> Values:
        interval = context.interval
        if interval.loss_scale is None:
            return {}
        return {AMP_SCALE: Max(interval.loss_scale), AMP_SKIPPED_STEPS: Max(interval.skipped_steps)}
