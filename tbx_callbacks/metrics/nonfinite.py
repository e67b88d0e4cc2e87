"""Defines the metric `NonFinite`, which counts NaN and Inf and names the first bad group."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tbx_callbacks._model.parameters import Select
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.values import StepInfo, Value
from tbx_callbacks.tags import (
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
        source = context.before_clip or context.gradients
        spread_by_clipping = context.before_clip is None and context.spreads_nonfinite
        gradients = context.selection.sums(source.nonfinite, source.present)
        weights = context.selection.sums(context.weights.nonfinite, context.weights.present)
        has_losses = context.interval.losses
        losses: tuple[Number, ...] = (context.interval.nonfinite_losses,) if has_losses else ()
        groups = context.selection.groups
        trained = [g for g in groups if any(context.parameters[i].tensor.requires_grad for i in g.members)]
        # Another rank may hold the elements of a group, but a value must have the same parts on all ranks.
        gradient_counts: dict[str, Number] = {**{group.name: 0.0 for group in trained}, **gradients}
        weight_counts: dict[str, Number] = {**{group.name: 0.0 for group in groups}, **weights}
        counts = (*gradient_counts.values(), *weight_counts.values(), *losses)
        values: dict[str, Value] = {
            NONFINITE_FOUND: _AnyNonFinite(counts),
            f"{NONFINITE_GRADIENTS}/{TOTAL}": _Count(
                tuple(gradients.values()), write_zero=True, spread_by_clipping=spread_by_clipping
            ),
            f"{NONFINITE_WEIGHTS}/{TOTAL}": _Count(tuple(weights.values()), write_zero=True),
            NONFINITE_FIRST_BAD: _FirstBad(
                context.step, gradient_counts, weight_counts, losses, spread_by_clipping=spread_by_clipping
            ),
        }
        if losses:
            values[NONFINITE_LOSSES] = _Count(losses, write_zero=True)
        for group, count in gradients.items():
            values.setdefault(f"{NONFINITE_GRADIENTS}/{group}", _Count((count,), spread_by_clipping=spread_by_clipping))
        for group, count in weights.items():
            values.setdefault(f"{NONFINITE_WEIGHTS}/{group}", _Count((count,)))
        return values


@dataclass(frozen=True)
class _AnyNonFinite(Value):
    counts: tuple[Number, ...]

    def sums(self) -> tuple[Number, ...]:
        return self.counts

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return float(any(sums))


@dataclass(frozen=True)
class _Count(Value):
    """A count.

    `write_zero` writes it when it is 0. `spread_by_clipping` leaves it out when it is not 0, because clipping spread
    NaN and Inf to other groups.
    """

    parts: tuple[Number, ...]
    write_zero: bool = False
    spread_by_clipping: bool = False

    def sums(self) -> tuple[Number, ...]:
        return self.parts

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        count = sum(sums)
        if count:
            return None if self.spread_by_clipping else count
        return 0.0 if self.write_zero else None


@dataclass(frozen=True)
class _FirstBad(Value):
    """Text that names the first group with NaN or Inf; None when there is none."""

    step: int
    gradients: Mapping[str, Number]
    weights: Mapping[str, Number]
    losses: tuple[Number, ...]
    spread_by_clipping: bool

    def sums(self) -> dict[str, Number]:
        return {
            **{f"gradients/{group}": count for group, count in self.gradients.items()},
            **{f"weights/{group}": count for group, count in self.weights.items()},
            **dict(zip(("losses",), self.losses, strict=False)),
        }

    def widened(self, names: Sequence[str]) -> Value:
        gradients, weights = (
            {name.removeprefix(kind): 0.0 for name in names if name.startswith(kind)}
            for kind in ("gradients/", "weights/")
        )
        return replace(self, gradients=gradients, weights=weights, losses=(0.0,) if "losses" in names else ())

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> Text | None:
        if not any(sums):
            return None
        split = len(self.gradients)
        bad_gradients = [group for group, count in zip(self.gradients, sums[:split], strict=True) if count]
        bad_weights = [
            group for group, count in zip(self.weights, sums[split : split + len(self.weights)], strict=True) if count
        ]
        problems = []
        if self.losses and sums[-1]:
            problems.append(f"the loss was NaN or Inf in {sums[-1]:g} micro-batches since the last point")
        if bad_gradients and self.spread_by_clipping:
            problems.append(
                "gradients hold NaN or Inf, but clipping spread them to every layer;"
                " call callback.attach(trainer), or loop.before_clip(), to learn the first bad layer"
            )
        elif bad_gradients:
            problems.append(
                f"gradients hold NaN or Inf in {len(bad_gradients)} of {split} groups;"
                f" backward reached {bad_gradients[-1]} first"
            )
        if bad_weights:
            problems.append(
                f"weights hold NaN or Inf in {len(bad_weights)} of {len(self.weights)} groups, first {bad_weights[0]}"
            )
        message = f"step {self.step}: {'; '.join(problems)}"
        logger.warning(message)
        return Text(message)
