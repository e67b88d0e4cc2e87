"""Defines the metric `Clip`, which reports gradient clipping."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.values import Derived, Max, Mean, Value
from tbx_callbacks.tags import CLIP_FACTOR, CLIP_SHARE, HIDDEN, TRAINER_CLIP_FACTOR

logger = logging.getLogger(__name__)

_FACTOR, _SHARE = f"{HIDDEN}{CLIP_FACTOR}", f"{HIDDEN}{CLIP_SHARE}"
_LOWEST, _HIGHEST = f"{HIDDEN}clip/lowest", f"{HIDDEN}clip/highest"
_SPREAD = 0.01  # of ratios of squared norms; an element in bfloat16 alone may be off by 0.004
_ROUNDING, _DISAGREES = 1e-3, 0.02  # norms in bfloat16, from which the trainer computes its factor, are off by less


@dataclass(frozen=True)
class Clip(Metric):
    """Clip factor of the step's gradient, and the share of steps that were clipped.

    `clip/factor` is the factor that clipping applied in this step: `min(1, max_norm / (norm + 1e-6))`, as in
    torch.nn.utils.clip_grad_norm_. `clip/share` is the share of steps since the last point whose gradient was clipped.

    Where norms by parameter are known before clipping, the factor is compared with what clipping did. If all gradients
    were multiplied by another factor, that one is written. If they were not multiplied by one factor (only a part is
    clipped, or each part has its own limit), the factor is left out, and the share from then on.

    With the Hugging Face Trainer, an attached callback is needed: without it the factor exists only on steps where the
    Trainer logs its norm, and there is no share. A loop must call `before_clip` in every step. The share is left out
    with several optimizers, and both are left out if these clip separately. The metric writes nothing when the trainer
    does not clip by norm. Cost: none; in Lightning and in loops two norms of a few small gradients per step. Where
    `grad_norm` is due and `grad_norm_clipped` is not, one pass over the gradients.
    """

    tags: ClassVar[Mapping[str, str]] = {CLIP_FACTOR: "", CLIP_SHARE: "share of steps"}
    needs: ClassVar[frozenset[str]] = frozenset({"clipping"})

    def __call__(self, context: Context) -> Values:
        if context.clipping != "norm":
            return {}
        values: dict[str, Value | Derived] = {CLIP_FACTOR: Derived(partial(_checked, context.state))}
        if context.clip_factor is not None:
            values[_FACTOR] = context.clip_factor
        if context.clip_ratios is not None:
            values.update(zip((_LOWEST, _HIGHEST), map(Max, context.clip_ratios), strict=True))
        interval = context.interval
        if interval.clip_steps and interval.clip_steps == interval.steps:
            values[_SHARE] = Mean(interval.clipped_steps, interval.clip_steps)
        return values


def _checked(state: dict[str, Any], numbers: Mapping[str, FinalValue]) -> dict[str, FinalValue | None]:
    """Returns the factor and the share, as far as the gradients after clipping agree with them.

    Without a factor of this step, that of the trainer's log counts.
    """
    factor, share = numbers.get(_FACTOR, numbers.get(TRAINER_CLIP_FACTOR)), numbers.get(_SHARE)
    lowest, highest = numbers.get(_LOWEST), numbers.get(_HIGHEST)
    if isinstance(factor, float) and isinstance(lowest, float) and isinstance(highest, float):
        measured = _measured(factor, -lowest, highest)
        if "disagrees" not in state and (measured is None or abs(measured - factor) > _DISAGREES * factor):
            state["disagrees"] = True  # the share may be that of gradients that are not clipped
            logger.warning(
                "clip/share is left out, and clip/factor at steps with several: clipping was not by max_grad_norm over"
                " all gradients; compare grad_norm with grad_norm_clipped"
            )
        factor = measured
    return {CLIP_FACTOR: factor, CLIP_SHARE: None if "disagrees" in state else share}


def _measured(factor: float, lowest: float, highest: float) -> float | None:
    """The factor that clipping applied; None if gradients have several.

    Args:
        factor: the factor according to the norm.
        lowest: the lowest squared norm after clipping relative to that before it.
        highest: the highest one.
    """
    if highest < 0:
        return factor  # no gradient counts
    if math.isnan(factor) or factor == 0:
        return None if highest else factor  # a norm that is not finite leaves nothing of the finite gradients
    if highest - lowest > _SPREAD * highest:
        return None
    measured = math.sqrt((lowest + highest) / 2)
    return factor if abs(measured - factor) <= _ROUNDING * factor else measured
