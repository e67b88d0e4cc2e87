"""How much a step changed, in proportion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Ratio


@dataclass(frozen=True)
class UpdateRatio:
    """Norm of what the step changed, divided by the norm of the weights after it, over parameters that have a gradient.

    `sqrt(sum((new - old)**2)) / sqrt(sum(new**2))`: about 1e-3 is usual for training from scratch, fine-tuning takes
    smaller steps. Left out where the weights are all zero, and for a step that was skipped because gradients
    overflowed. Merged over ranks as two sums of squares. Cost: that of `update_norm`, and one pass over the weights.
    """

    tags: ClassVar[Mapping[str, str]] = {"update_ratio/{group}": ""}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"weights_before"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "a copy of the weights, two passes over it, one over them"

    def __call__(self, context: Context) -> Values:
        updates = context.updates
        if updates is None:
            return {}
        squares = context.selection.sums(updates.squares, updates.present)
        weights = context.selection.sums(context.weights.squares_where(updates.present), updates.present)
        return {
            f"update_ratio/{group}": context.unless_skipped(Ratio(square, weights[group]))
            for group, square in squares.items()
        }
