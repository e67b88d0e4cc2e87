"""Norm of the gradient as the optimizer consumed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Norm


@dataclass(frozen=True)
class GradNormClipped:
    """L2 norm of the gradient after clipping, `sqrt(sum(g**2))` over a group's parameters.

    Merged over ranks as a sum of squares. Cost: one pass over the gradients.
    """

    tags: ClassVar[Mapping[str, str]] = {"grad_norm_clipped/{group}": ""}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    select: ClassVar[Select | None] = Select(by="total")
    cost: ClassVar[str] = "one pass over the gradients"

    def __call__(self, context: Context) -> Values:
        squares = context.selection.sums(context.gradients.squares, context.gradients.present)
        return {f"grad_norm_clipped/{group}": Norm(square) for group, square in squares.items()}
