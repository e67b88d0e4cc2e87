"""Sums many small tensors on a device, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.types import Number

KEPT = 32  # tensors per batch of additions: a few kernels every 32 tensors instead of several per step


class LazySum:
    """Sums a function of many small tensors, in batches. Keeps the tensors of the current batch."""

    def __init__(self, function: Callable[[Sequence[Tensor]], Tensor]) -> None:
        self._function = function
        self.pending: list[Tensor] = []
        """Tensors that are not summed yet; a caller that appends to it must call `total` regularly."""
        self._total: Number = 0

    def add(self, tensor: Tensor) -> None:
        """Adds a tensor; its contents must not change later."""
        self.pending.append(tensor)
        if len(self.pending) >= KEPT:
            self.total()

    def total(self) -> Number:
        """Returns the sum so far, 0-d."""
        if self.pending:
            batch, self.pending = self.pending, []  # clear first, so that an error does not recur
            self._total = self._total + self._function(batch)
        return self._total


def add_up(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the sum of 0-d tensors."""
    return stack_scalars(tensors).sum()


def stack_scalars(scalars: Sequence[Tensor]) -> Tensor:
    """Stacks 0-d tensors to `[len(scalars)]`, on an accelerator if any is on one, so that there is no host sync."""
    target_device = common_device(scalars)
    return torch.stack(
        [scalar if scalar.device == target_device else moved(scalar, target_device) for scalar in scalars]
    )


def common_device(tensors: Sequence[Tensor]) -> torch.device:
    """Returns the device to collect small tensors on: the first accelerator, because a copy to the CPU would wait."""
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return tensor.device
    return tensors[0].device
