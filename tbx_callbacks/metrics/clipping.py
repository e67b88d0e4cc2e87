"""Defines the metric `Clip`, which reports gradient clipping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.values import Derived, Mean, Value
from tbx_callbacks.tags import CLIP_FACTOR, CLIP_SHARE, TRAINER_CLIP_FACTOR


@dataclass(frozen=True)
class Clip(Metric):
    """Clip factor of the step's gradient, and the share of steps that were clipped.

    `clip/factor` is the factor that clipping applied in this step: `min(1, max_norm / (norm + 1e-6))`, as in
    torch.nn.utils.clip_grad_norm_. `clip/share` is the share of steps since the last point whose gradient was clipped.

    With the Hugging Face Trainer, an attached callback is needed: without it the factor exists only on steps where the
    Trainer logs its norm, and there is no share. A loop must call `before_clip` in every step. The share is left out
    with several optimizers, and both are left out if these clip separately. The metric writes nothing when the trainer
    does not clip by norm. Cost: none; in Lightning and in loops two norms of a few small gradients per step.
    """

    tags: ClassVar[Mapping[str, str]] = {CLIP_FACTOR: "", CLIP_SHARE: "share of steps"}
    needs: ClassVar[frozenset[str]] = frozenset({"clipping"})

    def __call__(self, context: Context) -> Values:
        if context.clipping != "norm":
            return {}
        factor = context.clip_factor
        values: dict[str, Value | Derived] = {CLIP_FACTOR: factor or Derived(_reported_factor)}
        interval = context.interval
        if interval.clip_steps and interval.clip_steps == interval.steps:
            values[CLIP_SHARE] = Mean(interval.clipped_steps, interval.clip_steps)
        return values


def _reported_factor(numbers: Mapping[str, FinalValue]) -> dict[str, FinalValue | None]:
    """Returns the factor that the trainer reported for this step; left out if it did not."""
    return {CLIP_FACTOR: numbers.get(TRAINER_CLIP_FACTOR)}
