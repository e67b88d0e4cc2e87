"""Sums many small tensors on a device, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._stats.flat import moved
from tbx_callbacks._stats.types import Number

KEPT = 32  # tensors per batch of additions: a few kernels every 32 tensors instead of several per step
_EXACT = frozenset({torch.float32, torch.bfloat16, torch.float16})  # types whose numbers float32 represents


def kept(scalar: Tensor) -> Number:
    """Returns what a 0-d tensor contains now, although its memory may be overwritten later; causes no host sync.

    A tensor of the CPU becomes a number, which costs less than a copy. Other tensors are copied without their graph, in
    float32 or wider.
    """
    if type(scalar) is Tensor and scalar.is_cpu and scalar.dtype in _EXACT:
        return scalar.item()
    scalar = scalar.detach()
    return scalar.float() if scalar.dtype.itemsize < 4 else scalar.clone()


class LazySum:
    """Sums a function of many small tensors, in batches. Keeps the tensors of the current batch.

    A number stands for a float32 tensor on the CPU; see `kept`.
    """

    def __init__(self, function: Callable[[Sequence[Any]], Tensor]) -> None:
        self._function = function
        self.pending: list[Any] = []
        """Tensors that are not summed yet; a caller that appends to it must call `total` regularly."""
        self._total: Number = 0

    def add(self, tensor: Number) -> None:
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


def add_up(tensors: Sequence[Number]) -> Tensor:
    """Returns the sum of 0-d tensors."""
    return stack_scalars(tensors).sum()


def stack_scalars(scalars: Sequence[Number]) -> Tensor:
    """Stacks 0-d tensors to `[len(scalars)]`, on an accelerator if any is on one, so that there is no host sync.

    Numbers are float32; see `kept`.
    """
    tensors = [scalar for scalar in scalars if isinstance(scalar, Tensor)]
    if len(tensors) < len(scalars):
        numbers = [scalar for scalar in scalars if not isinstance(scalar, Tensor)]
        converted = torch.tensor(numbers, dtype=torch.float32, device="cpu")
        if not tensors:
            return converted
        others = iter(converted.unbind())
        tensors = [scalar if isinstance(scalar, Tensor) else next(others) for scalar in scalars]
    target_device = common_device(tensors)
    return torch.stack(
        [tensor if tensor.device == target_device else moved(tensor, target_device) for tensor in tensors]
    )


def common_device(tensors: Sequence[Tensor]) -> torch.device:
    """Returns the device to collect small tensors on: the first accelerator, because a copy to the CPU would wait."""
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return tensor.device
    return tensors[0].device
