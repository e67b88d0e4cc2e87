"""Accuracy on the training batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Mean


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

    tags: ClassVar[Mapping[str, str]] = {"train/accuracy": "share of labels"}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"predictions"})
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "an argmax of the logits"

    def __call__(self, context: Context) -> Values:
        return {"train/accuracy": Mean(context.interval.hits, context.interval.predictions)}
