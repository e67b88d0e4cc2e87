"""Defines the metrics that write L2 norms of gradients, weights and updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks._model.parameters import Select
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.values import Derived, Norm, Ratio
from tbx_callbacks.tags import (
    GRAD_NORM,
    GRAD_NORM_CLIPPED,
    HIDDEN,
    TRAINER_CLIP_FACTOR,
    UPDATE_NORM,
    UPDATE_RATIO,
    WEIGHT_NORM,
)


@dataclass(frozen=True)
class GradNorm(Metric):
    """L2 norm of the gradient before clipping, `sqrt(sum(g**2))` over a group's parameters.

    Exact with an attached callback, or when the trainer does not clip. Otherwise it is the norm after clipping divided
    by the clip factor, on steps where the trainer logs its norm. It is left out on other steps, and when gradients are
    clipped by value. Merged over ranks as a sum of squares. Cost: one pass over the gradients.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{GRAD_NORM}/{{group}}": ""}
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
        norms = Norm(context.selection.sums(source.squares, source.present))
        if exact is not None:
            return {f"{GRAD_NORM}/{{group}}": norms}
        return {f"{_CLIPPED}/{{group}}": norms, _CLIPPED: Derived(_undo_clipping)}


_CLIPPED = f"{HIDDEN}{GRAD_NORM}"


def _undo_clipping(numbers: Mapping[str, FinalValue]) -> dict[str, FinalValue | None]:
    """Divides the norms after clipping by the factor that the trainer reported, if it did."""
    factor = numbers.get(TRAINER_CLIP_FACTOR)
    if not isinstance(factor, float) or not factor:
        return {}
    return {
        tag.removeprefix(HIDDEN): norm / factor
        for tag, norm in numbers.items()
        if tag.startswith(f"{_CLIPPED}/") and isinstance(norm, float)
    }


@dataclass(frozen=True)
class GradNormClipped(Metric):
    """L2 norm of the gradient after clipping, `sqrt(sum(g**2))` over a group's parameters.

    Merged over ranks as a sum of squares. Cost: one pass over the gradients.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{GRAD_NORM_CLIPPED}/{{group}}": ""}
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    select: ClassVar[Select | None] = Select(by="total")
    cost: ClassVar[str] = "one pass over the gradients"

    def __call__(self, context: Context) -> Values:
        squares = context.selection.sums(context.gradients.squares, context.gradients.present)
        return {f"{GRAD_NORM_CLIPPED}/{{group}}": Norm(squares)}


@dataclass(frozen=True)
class WeightNorm(Metric):
    """L2 norm of the weights after the step, `sqrt(sum(w**2))` over a group's parameters, frozen ones included.

    Tied weights count once. Merged over ranks as a sum of squares. Cost: one pass over the weights.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{WEIGHT_NORM}/{{group}}": ""}
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "one pass over the weights"

    def __call__(self, context: Context) -> Values:
        squares = context.selection.sums(context.weights.squares, context.weights.present)
        return {f"{WEIGHT_NORM}/{{group}}": Norm(squares)}


@dataclass(frozen=True)
class UpdateNorm(Metric):
    """L2 norm of the update, `sqrt(sum((new - old)**2))` over a group's parameters that have a gradient.

    Includes weight decay. Not written for a step that was skipped because gradients overflowed. Merged over ranks as a
    sum of squares. Cost: a copy of the selected weights on due steps, freed after the step, and two passes over it.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{UPDATE_NORM}/{{group}}": ""}
    needs: ClassVar[frozenset[str]] = frozenset({"weights_before"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "a copy of the weights, two passes over it"

    def __call__(self, context: Context) -> Values:
        updates = context.updates
        if updates is None:
            return {}
        squares = context.selection.sums(updates.squares, updates.present)
        return {f"{UPDATE_NORM}/{{group}}": context.unless_skipped(Norm(squares))}


@dataclass(frozen=True)
class UpdateRatio(Metric):
    """Norm of the update divided by the norm of the new weights, over parameters that have a gradient.

    `sqrt(sum((new - old)**2)) / sqrt(sum(new**2))`. About 1e-3 is usual for training from scratch; fine-tuning takes
    smaller steps. Left out where all weights are zero, and for a step that was skipped because gradients overflowed.
    Merged over ranks as two sums of squares. Cost: that of `update_norm`, and one pass over the weights.
    """

    tags: ClassVar[Mapping[str, str]] = {f"{UPDATE_RATIO}/{{group}}": ""}
    needs: ClassVar[frozenset[str]] = frozenset({"weights_before"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "a copy of the weights, two passes over it, one over them"

    def __call__(self, context: Context) -> Values:
        updates = context.updates
        if updates is None:
            return {}
        squares = context.selection.sums(updates.squares, updates.present)
        weights = context.selection.sums(context.weights.squares_where(updates.present), updates.present)
        return {f"{UPDATE_RATIO}/{{group}}": context.unless_skipped(Ratio(squares, weights))}
