"""Loss scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Max


@dataclass(frozen=True)
class Amp:
    """The loss scale of mixed precision in float16, and the steps that were skipped because gradients overflowed.

    `amp/scale` is what the loss is multiplied by after this step, `amp/skipped_steps` how many steps did nothing since
    the last point. Written where the trainer uses a GradScaler. A step counts as the trainer counts: the Hugging Face
    Trainer numbers skipped steps, others do not when the optimizer is not called for them (it is if it is fused). The
    same on every rank. Cost: a copy of one number a pass.
    """

    tags: ClassVar[Mapping[str, str]] = {"amp/scale": "", "amp/skipped_steps": "steps"}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"loss_scale"})
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        interval = context.interval
        if interval.loss_scale is None:
            return {}
        return {"amp/scale": Max(interval.loss_scale), "amp/skipped_steps": Max(interval.skipped_steps)}
