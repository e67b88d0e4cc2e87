"""Defines the metric `NonFinite`, which counts NaN and Inf and names the first bad group."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from tbx_callbacks._model.parameters import PerGroup, Select
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import FinalValue, Text
from tbx_callbacks.metrics.values import Derived, Sum, Value
from tbx_callbacks.tags import (
    HIDDEN,
    NONFINITE_FIRST_BAD,
    NONFINITE_FOUND,
    NONFINITE_GRADIENTS,
    NONFINITE_LOSSES,
    NONFINITE_WEIGHTS,
    TOTAL,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NonFinite(Metric):
    """Counts of NaN and Inf elements in the gradients before clipping and in the weights after the step.

    `nonfinite/found` is 1 when there is any, in the losses since the last point too, else 0. Totals are always written;
    groups are written only when they contain NaN or Inf. A text names the first bad group. Backward reaches the last
    layers first, so for gradients this is the last bad group in the model's order.

    Clipping by a NaN norm makes every gradient NaN. Clipping by an Inf norm turns Inf into NaN and the rest into zeros.
    If the trainer clips so and the callback is not attached, nonzero counts are left out: they would blame every layer.

    Counts of gradients are left out in a step without any gradient.

    `nonfinite/losses` counts micro-batches, including those that the trainer's log hides (logging_nan_inf_filter).
    Cost: on accelerators one pass; on CPU nothing beyond the norms' pass while all tensors are finite.
    """

    tags: ClassVar[Mapping[str, str]] = {
        NONFINITE_FOUND: "0 or 1",
        NONFINITE_LOSSES: "micro-batches",
        f"{NONFINITE_GRADIENTS}/{TOTAL}": "elements",
        f"{NONFINITE_GRADIENTS}/{{group}}": "elements",
        f"{NONFINITE_WEIGHTS}/{TOTAL}": "elements",
        f"{NONFINITE_WEIGHTS}/{{group}}": "elements",
        NONFINITE_FIRST_BAD: "text",
    }
    needs: ClassVar[frozenset[str]] = frozenset({"batches", "before_clip", "gradients", "nonfinite"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "shares the norms' pass"

    def __call__(self, context: Context) -> Values:
        source, interval, groups = context.before_clip or context.gradients, context.interval, context.selection.groups
        # Clipping by a NaN norm has spread NaN to every group: no count may be written.
        spread_by_clipping = context.before_clip is None and context.spreads_nonfinite
        gradient_prefix = _SPREAD if spread_by_clipping else NONFINITE_GRADIENTS
        trains = [parameter.tensor.requires_grad for parameter in context.parameters]
        trained = [group.name for group in groups if any([trains[index] for index in group.members])]
        gradients = context.selection.sums(source.nonfinite, source.present)
        weights = context.selection.sums(context.weights.nonfinite, context.weights.present)
        values: dict[str, Value | Derived] = {
            f"{NONFINITE_WEIGHTS}/{{group}}": Sum(_with_zeros(weights, [group.name for group in groups])),
            NONFINITE_FIRST_BAD: Derived(partial(_summarize, context.step)),
        }
        if any(source.present):  # zeros would say that gradients are finite where there are none
            values[f"{gradient_prefix}/{{group}}"] = Sum(_with_zeros(gradients, trained))
        if interval.losses:
            values[NONFINITE_LOSSES] = Sum(interval.nonfinite_losses)
        return values


_SPREAD = f"{HIDDEN}{NONFINITE_GRADIENTS}"


def _with_zeros(counts: PerGroup, groups: Sequence[str]) -> Mapping[str, Number]:
    """Adds zeros for groups that have no elements on this rank: another rank may have them."""
    return counts if counts.names == tuple(groups) else {**dict.fromkeys(groups, 0.0), **counts}


def _summarize(step: int, numbers: Mapping[str, FinalValue]) -> dict[str, FinalValue | None]:
    """Computes totals and the text that names the first bad group, and leaves out the groups that are finite."""
    gradients, spread, weights = (_by_group(numbers, p) for p in (NONFINITE_GRADIENTS, _SPREAD, NONFINITE_WEIGHTS))
    losses = numbers.get(NONFINITE_LOSSES, 0.0)
    bad = {tag: count for tag, count in {**gradients, **spread, **weights}.items() if count}
    values: dict[str, FinalValue | None] = {tag: None for tag in (*gradients, *weights) if tag not in bad}
    values[NONFINITE_FOUND] = float(bool(bad or losses))
    has_counts = (gradients or spread) and not any(spread.values())
    values[f"{NONFINITE_GRADIENTS}/{TOTAL}"] = sum(gradients.values(), start=0.0) if has_counts else None
    values[f"{NONFINITE_WEIGHTS}/{TOTAL}"] = sum(weights.values(), start=0.0)
    problems = []
    if losses:
        problems.append(f"the loss was NaN or Inf in {losses:g} micro-batches since the last point")
    if any(spread.values()):
        problems.append(
            "gradients hold NaN or Inf, but clipping spread them to every layer;"
            " call callback.attach(trainer), or loop.before_clip(), to learn the first bad layer"
        )
    elif bad_gradients := [tag.removeprefix(f"{NONFINITE_GRADIENTS}/") for tag in gradients if tag in bad]:
        problems.append(
            f"gradients hold NaN or Inf in {len(bad_gradients)} of {len(gradients)} groups;"
            f" backward reached {bad_gradients[-1]} first"
        )
    if bad_weights := [tag.removeprefix(f"{NONFINITE_WEIGHTS}/") for tag in weights if tag in bad]:
        problems.append(
            f"weights hold NaN or Inf in {len(bad_weights)} of {len(weights)} groups, first {bad_weights[0]}"
        )
    if problems:
        message = f"step {step}: {'; '.join(problems)}"
        logger.warning(message)
        values[NONFINITE_FIRST_BAD] = Text(message)
    return values


def _by_group(numbers: Mapping[str, FinalValue], prefix: str) -> dict[str, float]:
    """Returns the counts of all groups, by tag."""
    return {tag: n for tag, n in numbers.items() if tag.startswith(f"{prefix}/") and isinstance(n, float)}
