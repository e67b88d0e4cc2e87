"""Notices gradients that are not cleared between steps."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._stats.types import Number
from tbx_callbacks._wiring.check import Check


class KeptGradients:
    """Watches the gradient of one parameter from the end of a step to the next step of the same optimizer.

    Each backward pass adds to the gradient. If it was cleared in between, it is another tensor, or its version changed
    by more than these additions; `gradient.data.zero_()` changes no version, so that the sum is compared too. Clearing
    may happen before any of the backward passes.

    `gradients_not_cleared` is 1 if no backward pass found the gradient cleared. There is no host sync.
    """

    def __init__(self) -> None:
        self._parameter: weakref.ref[Tensor] | None = None
        self._handles: list[Any] = []
        self._last: tuple[int, int] | None = None  # the gradient after the last step or pass: its id and its version
        self._before: Tensor | None = None  # the gradient that the pass in progress adds to
        self._was_cleared = False
        self._size: Tensor | None = None  # of the gradient after the last pass
        self.passes = 0
        """Backward passes since the last step, or since the gradients were cleared after it; 0 at first."""
        self._is_sum: Number = 1.0
        self._number: Number = -1.0

    def add_step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer's step has ended."""
        if self._parameter is None:
            self._choose(optimizer)
            return
        parameter = self._parameter()
        if parameter is None or not _owns(optimizer, parameter):
            return
        if self.passes:
            found = 0.0 if self._was_cleared else self._is_sum
            is_first = not isinstance(self._number, Tensor) and self._number < 0
            self._number = found if is_first else _smaller(self._number, found)
        self._begin(parameter)

    def _choose(self, optimizer: torch.optim.Optimizer) -> None:
        plain = [
            tensor
            for group in optimizer.param_groups
            for tensor in group["params"]
            if type(tensor) in (Tensor, torch.nn.Parameter) and tensor.requires_grad
            if tensor.grad is not None and type(tensor.grad) is Tensor and tensor.grad.layout is torch.strided
        ]
        if not plain:
            return
        chosen = min(plain, key=Tensor.numel)
        self._parameter = weakref.ref(chosen)
        self._handles = [
            chosen.register_hook(self._on_addition),
            chosen.register_post_accumulate_grad_hook(self._on_added),
        ]
        self._begin(chosen)

    def share_kept(self) -> Tensor | None:
        """Returns which share of the gradient is left since the last pass: a user or clipping may have divided it."""
        parameter = self._parameter() if self._parameter is not None else None
        if parameter is None or parameter.grad is None or self._size is None:
            return None
        return parameter.grad.detach().abs().sum() / self._size

    def _begin(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        self._last = None if gradient is None else (id(gradient), gradient._version)
        self._was_cleared = gradient is None
        self.passes = 0
        self._is_sum = 1.0

    def _on_addition(self, addition: Tensor) -> None:
        parameter = self._parameter() if self._parameter is not None else None
        gradient = None if parameter is None else parameter.grad
        self._before = None
        if gradient is None or (id(gradient), gradient._version) != self._last:
            self._was_cleared, self.passes = True, 0
        elif not self._was_cleared and not self.passes:
            self._before = gradient.detach().abs().sum()  # 0 if the gradient was cleared without a trace

    def _on_added(self, parameter: Tensor) -> None:
        self.passes += 1
        gradient = parameter.grad
        self._size = None if gradient is None else gradient.detach().abs().sum()
        self._last = None if gradient is None else (id(gradient), gradient._version)
        if self._before is not None:
            self._is_sum = (self._before != 0).to(torch.float32)
            self._before = None

    def end(self) -> None:
        """Removes the hooks."""
        while self._handles:
            self._handles.pop().remove()
        self._parameter = None

    def result(self) -> dict[str, Check]:
        """Returns the check; negative without two steps."""
        return {"gradients_not_cleared": Check(self._number)}


def _owns(optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    return any(tensor is parameter for group in optimizer.param_groups for tensor in group["params"])


def _smaller(one: Number, other: Number) -> Number:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.minimum(one, other)
    if isinstance(one, Tensor):
        return one * other
    return other * one
