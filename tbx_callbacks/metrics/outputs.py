"""What a model returns beside its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.select import Select


@dataclass(frozen=True)
class Outputs:
    """Mean since the last point of every further loss that the model returns: each scalar `*loss*` beside `loss`.

    As the model returns it (a mapping or a dataclass; under Lightning what `training_step` returns too), for each
    micro-batch of training; models with several tasks or with auxiliary losses have such. A name that the trainer logs
    itself is the trainer's. Over ranks the mean of all their micro-batches. Cost: now and then a small sum.
    """

    tags: ClassVar[Mapping[str, str]] = {"train/<name>": ""}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"losses"})
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "a small sum now and then"

    def __call__(self, context: Context) -> Values:
        return {f"train/{name}": mean for name, mean in context.interval.extra_losses.items()}
