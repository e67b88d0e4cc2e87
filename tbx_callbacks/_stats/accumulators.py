"""Sums of many small numbers on a device: kept for a while, then added up together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.types import Number

KEPT = 32  # tensors kept before they are added up: a few kernels now and then instead of several a step


class LazySum:
    """Adds up a function of many small tensors, several at a time. They are kept until then."""

    def __init__(self, function: Callable[[Sequence[Tensor]], Tensor]) -> None:
        self._function = function
        self.pending: list[Tensor] = []
        """Tensors that are not added up yet; whoever appends to it calls `total` now and then."""
        self._total: Number = 0

    def add(self, tensor: Tensor) -> None:
        """Keeps a tensor for later; its contents must stay."""
        self.pending.append(tensor)
        if len(self.pending) >= KEPT:
            self.total()

    def total(self) -> Number:
        """The sum so far, 0-d."""
        if self.pending:
            kept, self.pending = self.pending, []  # an error is not met again
            self._total = self._total + self._function(kept)
        return self._total


def add_up(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of 0-d tensors."""
    return stack_scalars(tensors).sum()


def stack_scalars(scalars: Sequence[Tensor]) -> Tensor:
    """0-d tensors as one, `[len(scalars)]`, on the accelerator that holds any of them: nothing waits for it."""
    home = common_device(scalars)
    return torch.stack([scalar if scalar.device == home else moved(scalar, home) for scalar in scalars])


def common_device(tensors: Sequence[Tensor]) -> torch.device:
    """The device to bring small tensors to: the first accelerator, since a copy to the CPU would wait for it."""
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return tensor.device
    return tensors[0].device
