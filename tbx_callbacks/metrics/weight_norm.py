"""Norm of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import NOTHING, STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Norm


@dataclass(frozen=True)
class WeightNorm:
    """L2 norm of the weights after the step, `sqrt(sum(w**2))` over a group's parameters, frozen ones included.

    Tied weights count once. Merged over ranks as a sum of squares. Cost: one pass over the weights.
    """

    tags: ClassVar[Mapping[str, str]] = {"weight_norm/{group}": ""}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "one pass over the weights"

    def __call__(self, context: Context) -> Values:
        squares = context.selection.sums(context.weights.squares, context.weights.present)
        return {f"weight_norm/{group}": Norm(square) for group, square in squares.items()}
