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
    training mode, as each step saw them: dropout is on and weights change, so it is not an evaluation. Not written for
    regression, several labels at once, and logits over the vocabulary. On one rank only. Cost: an argmax and two sums,
    of many micro-batches together.
    """

    tags: ClassVar[Mapping[str, str]] = {"train/accuracy": "share of labels"}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"predictions"})
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "an argmax of the logits"

    def __call__(self, context: Context) -> Values:
        return {"train/accuracy": Mean(context.interval.hits, context.interval.predictions)}
