"""Notices a Trainer whose loss and gradients grow with the number of micro-batches or ranks.

The Trainer does not divide the loss by the micro-batches of a step where it believes that the loss is normalised by
`num_items_in_batch`. It believes so of every model whose forward pass takes `**kwargs`, though many ignore them. With
`average_tokens_across_devices` it also multiplies by the ranks. Tested on transformers 4.52 to 5.23.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tbx_callbacks.integrations.loss_graph import is_mean

REMEDY = "first set model.accepts_loss_kwargs = False"
REMEDY_OF_FUNCTION = "divide its sum by num_items_in_batch in compute_loss_func"


def warning(factor: int, remedy: str) -> str:
    """The warning about a loss that is `factor` times too large."""
    return (
        f"train/loss and gradients are {factor} times too large: the Trainer takes a mean loss as normalised by"
        f" num_items_in_batch; {remedy}"
    )


def nearest_factor(ratio: float, micro_batches: int, ranks: int) -> int:
    """The factor closest to the measured one: 1, the micro-batches of a step, the ranks, or both."""
    if not math.isfinite(ratio) or ratio <= 0:
        return 1
    factors = (1, micro_batches, ranks, micro_batches * ranks)
    return min(factors, key=lambda factor: abs(math.log(ratio / factor)))


class LossComparison:
    """Compares the loss that the Trainer logs with the model's own mean losses, up to the first log.

    Args:
        micro_batches: of a step.
        ranks: number of ranks.
    """

    def __init__(self, micro_batches: int, ranks: int) -> None:
        self._micro_batches, self._ranks = micro_batches, ranks
        self._sum: Tensor | None = None
        self._count = 0
        self.is_open = micro_batches > 1 or ranks > 1
        """Whether the comparison still needs losses."""

    def add(self, loss: Tensor | None, num_items: Any) -> None:
        """Adds the loss that the model returned for a micro-batch, before its backward pass."""
        if loss is None or (self._sum is None and not is_mean(loss, num_items)):
            self.is_open = False  # the loss is normalised, or is not the model's own, or the graph does not tell
            return
        value = loss.detach().float().clone()
        self._sum, self._count = value if self._sum is None else self._sum + value, self._count + 1

    def factor(self, logged: float) -> int:
        """By how many times the logged loss is too large; ends the comparison if the loss is finite."""
        if self._sum is None or not math.isfinite(logged):
            return 1
        mean, self.is_open = float(self._sum) / self._count, False
        return nearest_factor(logged / mean, self._micro_batches, self._ranks) if mean else 1
