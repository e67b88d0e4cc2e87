"""Tells what share a micro-batch has in a loss that is divided by the items of a step (`num_items_in_batch`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tbx_callbacks.integrations.loss_graph import is_by_items, is_mean

_IGNORED = -100
_UNKNOWN = "the loss does not tell how it is divided by num_items_in_batch; first set model.accepts_loss_kwargs = False"


class ItemWeights:
    """Computes the share of each micro-batch of a Trainer in the loss of all ranks.

    The graph of the first loss tells whether it is divided by the items, or is a mean over its micro-batch. Means count
    alike, and others by their labels.

    Args:
        args: the Trainer's arguments.
        problem: why losses are not known at all; empty if they are.
    """

    def __init__(self, args: Any, problem: str = "") -> None:
        ranks = max(1, int(args.world_size))
        # Without the average each rank divides by its own items, and the ranks average the gradients.
        self._ranks = 1 if getattr(args, "average_tokens_across_devices", False) else ranks
        self._is_mean: bool | None = None
        self._problem = problem

    @property
    def needs_loss(self) -> bool:
        """Whether the graph of a loss has to be read."""
        return self._is_mean is None and not self._problem

    def read(self, loss: Any, num_items: Any) -> None:
        """Reads the graph of a micro-batch's loss before its backward pass."""
        if num_items is None or not isinstance(loss, Tensor):
            return
        self._is_mean = is_mean(loss, num_items)
        if not self._is_mean and not is_by_items(loss, num_items):
            self._problem = _UNKNOWN

    def share(self, labels: Any, num_items: Any) -> tuple[Tensor | None, str]:
        """The share of a micro-batch with these labels, 0-d; None if all count alike. Then why it is not known."""
        if self._problem:
            return None, self._problem
        if num_items is None or self._is_mean:
            return None, ""
        if self._is_mean is None or not isinstance(labels, Tensor):
            return None, _UNKNOWN
        items = labels.detach().ne(_IGNORED).sum()
        return items / (num_items.to(items.device) if isinstance(num_items, Tensor) else num_items) / self._ranks, ""
