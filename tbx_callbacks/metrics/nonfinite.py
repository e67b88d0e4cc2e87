"""NaN and Inf, and where they came from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tbx_callbacks._model.parameters import Select
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.base import Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.values import StepInfo, Value
from tbx_callbacks.tags import (
    NONFINITE_FIRST_BAD,
    NONFINITE_FOUND,
    NONFINITE_GRADIENTS,
    NONFINITE_LOSSES,
    NONFINITE_WEIGHTS,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NonFinite:
    """Counts of NaN and Inf elements in the gradients before clipping and in the weights after the step.

    `nonfinite/found` is 1 when there is any, in the loss since the last point too, else 0. Totals are always written,
    groups only when they hold one. A text names the first bad group: backward reaches the last layers first, so for
    gradients that is the last group in the model's order.

    Clipping by a NaN norm makes every gradient NaN, and by an Inf norm turns Inf into NaN and the rest into zeros.
    Where the trainer does that and the gradients could not be seen before (callback not attached), counts other than
    zero are left out, since they would blame every layer.

    `nonfinite/losses` counts micro-batches, also those that the trainer's log hides (logging_nan_inf_filter). Cost:
    with finite tensors on CPU that of the norms, which it shares; on accelerators one pass.
    """

    tags: ClassVar[Mapping[str, str]] = {
        NONFINITE_FOUND: "0 or 1",
        NONFINITE_LOSSES: "micro-batches",
        f"{NONFINITE_GRADIENTS}/total": "elements",
        f"{NONFINITE_GRADIENTS}/{{group}}": "elements",
        f"{NONFINITE_WEIGHTS}/total": "elements",
        f"{NONFINITE_WEIGHTS}/{{group}}": "elements",
        NONFINITE_FIRST_BAD: "text",
    }
    events: ClassVar[frozenset[str]] = frozenset({"step"})
    needs: ClassVar[frozenset[str]] = frozenset({"batches", "before_clip", "gradients", "nonfinite"})
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "shares the norms' pass"

    def __call__(self, context: Context) -> Values:
        source = context.before_clip or context.gradients
        smeared = context.before_clip is None and context.spreads_nonfinite
        gradients = context.selection.sums(source.nonfinite, source.present)
        weights = context.selection.sums(context.weights.nonfinite, context.weights.present)
        seen = context.interval.losses
        losses: tuple[Number, ...] = (context.interval.nonfinite_losses,) if seen else ()
        groups = context.selection.groups
        trained = [g for g in groups if any(context.parameters[i].tensor.requires_grad for i in g.members)]
        # Another rank may hold the elements of a group: the parts of one value are the same on all ranks.
        every_gradient: dict[str, Number] = {**{group.name: 0.0 for group in trained}, **gradients}
        every_weight: dict[str, Number] = {**{group.name: 0.0 for group in groups}, **weights}
        counts = (*every_gradient.values(), *every_weight.values(), *losses)
        values: dict[str, Value] = {
            NONFINITE_FOUND: _Found(counts),
            f"{NONFINITE_GRADIENTS}/total": _Count(tuple(gradients.values()), zero=True, smeared=smeared),
            f"{NONFINITE_WEIGHTS}/total": _Count(tuple(weights.values()), zero=True),
            NONFINITE_FIRST_BAD: _FirstBad(context.step, every_gradient, every_weight, losses, smeared=smeared),
        }
        if losses:
            values[NONFINITE_LOSSES] = _Count(losses, zero=True)
        for group, count in gradients.items():
            values.setdefault(f"{NONFINITE_GRADIENTS}/{group}", _Count((count,), smeared=smeared))
        for group, count in weights.items():
            values.setdefault(f"{NONFINITE_WEIGHTS}/{group}", _Count((count,)))
        return values


@dataclass(frozen=True)
class _Found(Value):
    counts: tuple[Number, ...]

    def sums(self) -> tuple[Number, ...]:
        return self.counts

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        return float(any(sums))


@dataclass(frozen=True)
class _Count(Value):
    """A count; `zero`: written when it is 0; `smeared`: left out when it is not, since clipping spread it."""

    parts: tuple[Number, ...]
    zero: bool = False
    smeared: bool = False

    def sums(self) -> tuple[Number, ...]:
        return self.parts

    def result(self, sums: Sequence[float], maxes: Sequence[float], step_info: StepInfo) -> float | None:
        count = sum(sums)
        if count:
            return None if self.smeared else count
        return 0.0 if self.zero else None


@dataclass(frozen=True)
class _FirstBad(Value):
    """Says which group went bad first, in words, when one did."""

    step: int
    gradients: Mapping[str, Number]
    weights: Mapping[str, Number]
    losses: tuple[Number, ...]
    smeared: bool

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
        said = []
        if self.losses and sums[-1]:
            said.append(f"the loss was NaN or Inf in {sums[-1]:g} micro-batches since the last point")
        if bad_gradients and self.smeared:
            said.append(
                "gradients hold NaN or Inf; clipping has spread them, so the first bad layer cannot be named"
                " (call callback.attach(trainer) to see gradients before clipping)"
            )
        elif bad_gradients:
            said.append(
                f"gradients hold NaN or Inf in {len(bad_gradients)} of {split} groups;"
                f" backward reached {bad_gradients[-1]} first"
            )
        if bad_weights:
            said.append(
                f"weights hold NaN or Inf in {len(bad_weights)} of {len(self.weights)} groups, first {bad_weights[0]}"
            )
        message = f"step {self.step}: {'; '.join(said)}"
        logger.warning(message)
        return Text(message)
