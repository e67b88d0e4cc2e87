"""The trainer's own numbers: losses, accuracy, learning rates, loss scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks._model.parameters import Select
from tbx_callbacks.metrics.base import NOTHING, STEP, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.values import Max, Mean
from tbx_callbacks.tags import AMP_SCALE, AMP_SKIPPED_STEPS, EVAL, LEARNING_RATE, TRAIN, TRAIN_ACCURACY, TRAIN_LOSS


@dataclass(frozen=True)
class Loss:
    """Loss and every other number that the trainer logs, as it logs them.

    The trainer's loss is its mean over the steps since it last logged; evaluation metrics and the summary at the end
    come as they are. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {TRAIN_LOSS: "", f"{TRAIN}/<name>": "", f"{EVAL}/<name>": ""}
    events: ClassVar[frozenset[str]] = frozenset({"log"})
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        return {tag: Text(value) if isinstance(value, str) else Max(value) for tag, value in context.logs.items()}


@dataclass(frozen=True)
class Outputs:
    """Mean since the last point of every further loss that the model returns: each scalar `*loss*` beside `loss`.

    As the model returns it (a mapping or a dataclass; under Lightning what `training_step` returns too), for each
    micro-batch of training; models with several tasks or with auxiliary losses have such. A name that the trainer logs
    itself is the trainer's. Over ranks the mean of all their micro-batches. Cost: now and then a small sum.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{TRAIN}/<name>": ""}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"losses"})
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "a small sum now and then"

    def __call__(self, context: Context) -> Values:
        return {f"{TRAIN}/{name}": mean for name, mean in context.interval.extra_losses.items()}


@dataclass(frozen=True)
class TrainAccuracy:
    """Share of right predictions on the training batches since the last point, for classification heads.

    Of the model's own `logits` (`[batch, classes]`, or `[batch, length, classes]` with labels of -100 left out) in
    training mode, as each step saw them: dropout is on and weights change, so it is not an evaluation. They are what
    the model returns under that name, after the loss in a tuple, or alone; under Lightning those that `training_step`
    returns come first. Labels are those that the model is given, or else the batch's: under the Hugging Face Trainer
    where the callback is attached, under Lightning of batches `(inputs, labels)` or with a name like `labels`.

    Not written, with one warning that says why, for regression, several labels at once, logits or labels that are not
    seen, and language models (logits of tokens over the vocabulary or more columns), whose labels may be shifted. Over
    ranks right predictions and labels are added up. Cost: an argmax and two sums, of many micro-batches together.
    """

    tags: ClassVar[Mapping[str, str]] = {TRAIN_ACCURACY: "share of labels"}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"predictions"})
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "an argmax of the logits"

    def __call__(self, context: Context) -> Values:
        return {TRAIN_ACCURACY: Mean(context.interval.hits, context.interval.predictions)}


@dataclass(frozen=True)
class LearningRate:
    """The learning rate that the step used, for every parameter group of every optimizer.

    A group goes by its `name`, or by its place: `pg1`, `pg2`. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{LEARNING_RATE}/<Optimizer>/<group>": ""}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        return {f"{LEARNING_RATE}/{name}": Max(rate) for name, rate in context.learning_rates.items()}


@dataclass(frozen=True)
class Amp:
    """The loss scale of mixed precision in float16, and the steps that were skipped because gradients overflowed.

    `amp/scale` is what the loss is multiplied by after this step, `amp/skipped_steps` how many steps did nothing since
    the last point. Written where the trainer uses a GradScaler. A step counts as the trainer counts: the Hugging Face
    Trainer numbers skipped steps, others do not when the optimizer is not called for them (it is if it is fused). The
    same on every rank. Cost: a copy of one number a pass.
    """

    tags: ClassVar[Mapping[str, str]] = {AMP_SCALE: "", AMP_SKIPPED_STEPS: "steps"}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"loss_scale"})
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        interval = context.interval
        if interval.loss_scale is None:
            return {}
        return {AMP_SCALE: Max(interval.loss_scale), AMP_SKIPPED_STEPS: Max(interval.skipped_steps)}
