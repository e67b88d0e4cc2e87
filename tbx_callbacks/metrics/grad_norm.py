"""Norm of the gradient before clipping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Norm


@dataclass(frozen=True)
class GradNorm:
    """L2 norm of the gradient before clipping, `sqrt(sum(g**2))` over a group's parameters.

    Exact where the trainer lets gradients be seen before clipping (an attached callback) or does not clip. Otherwise
    the norm after clipping divided by the clip factor, on steps where the trainer logs its norm; left out on others,
    and where gradients are clipped by value. Merged over ranks as a sum of squares. Cost: one pass over the gradients.
    """

    tags: ClassVar[Mapping[str, str]] = {"grad_norm/{group}": ""}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"before_clip", "gradients"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "one pass over the gradients"

    def __call__(self, context: Context) -> Values:
        exact = context.before_clip
        if exact is None and context.clipping == "none":
            exact = context.gradients
        if exact is None and context.clipping != "norm":
            return {}
        source = context.gradients if exact is None else exact
        squares = context.selection.sums(source.squares, source.present)
        factor = "clip_factor" if exact is None else None
        return {f"grad_norm/{group}": Norm(square, divide_by=factor) for group, square in squares.items()}
