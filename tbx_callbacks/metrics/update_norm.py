"""Norm of what a step changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Norm


@dataclass(frozen=True)
class UpdateNorm:
    """L2 norm of what the step changed, `sqrt(sum((new - old)**2))` over a group's parameters that have a gradient.

    Weight decay is part of it. Not written for a step that was skipped because gradients overflowed. Merged over ranks
    as a sum of squares. Cost: a copy of the selected weights on due steps, freed at once, and two passes over it.
    """

    tags: ClassVar[Mapping[str, str]] = {"update_norm/{group}": ""}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"weights_before"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "a copy of the weights, two passes over it"

    def __call__(self, context: Context) -> Values:
        updates = context.updates
        if updates is None:
            return {}
        squares = context.selection.sums(updates.squares, updates.present)
        return {f"update_norm/{group}": context.unless_skipped(Norm(square)) for group, square in squares.items()}
