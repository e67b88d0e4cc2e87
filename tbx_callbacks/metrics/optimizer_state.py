"""Defines the metric `OptimizerState`, which writes norms of the optimizer's moments and the effective step size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from tbx_callbacks._model.parameters import Select
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Norm, Rms, Value
from tbx_callbacks.tags import OPTIMIZER_STATE


@dataclass(frozen=True)
class OptimizerState(Metric):
    """L2 norms of the optimizer's moments after the step, and the size of the resulting step.

    `exp_avg` and `exp_avg_sq` are Adam's first and second moments without bias correction. For Adafactor `exp_avg_sq`
    is the second moment that its rows and columns factorize. `momentum_buffer` is SGD's buffer.

    `effective_lr` is the root mean square of the step's elements, without decoupled weight decay. The step is
    `lr * m_hat / (sqrt(v_hat) + eps)` for Adam and AdamW (Kingma and Ba, algorithm 1), and `lr * momentum_buffer` for
    SGD (or its Nesterov form). For Adafactor it is the clipped update times its own rate, for unsharded tensors only.
    With Adam, `effective_lr` is near `lr` where gradients keep their sign, and far below it where they are mostly
    noise. It is left out for other optimizers, and for steps that were skipped because gradients overflowed.

    One warning names the state that an optimizer lacks. Merged over ranks as sums of squares. Cost: four passes over
    the state.
    """

    tags: ClassVar[Mapping[str, str]] = {
        f"{OPTIMIZER_STATE}/exp_avg/{{group}}": "",
        f"{OPTIMIZER_STATE}/exp_avg_sq/{{group}}": "",
        f"{OPTIMIZER_STATE}/momentum_buffer/{{group}}": "",
        f"{OPTIMIZER_STATE}/effective_lr/{{group}}": "",
    }
    select: ClassVar[Select | None] = Select(by="layer")
    cost: ClassVar[str] = "four passes over the optimizer's state"

    def __call__(self, context: Context) -> Values:
        state = context.optimizer_state
        if state is None or not state.moments:
            return {}
        selection = context.selection
        values: dict[str, Value] = {
            f"{OPTIMIZER_STATE}/{name}/{{group}}": Norm(selection.sums(moments.squares, moments.present))
            for name, moments in state.moments.items()
        }
        steps = state.update_norms
        if steps is not None:
            stepped = zip(state.numels, steps.present, strict=True)
            numels = torch.tensor([numel if present else 0 for numel, present in stepped], dtype=torch.float64)
            squares, counts = (selection.sums(numbers, steps.present) for numbers in (steps.squares, numels))
            values[f"{OPTIMIZER_STATE}/effective_lr/{{group}}"] = context.unless_skipped(Rms(squares, counts))
        return values
