"""Defines `BackwardWatch`, which notices that gradients change between the backward pass and the optimizer's step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks._model.optimizers import ids_of

_NUM_PARAMETERS = 3


class BackwardWatch:
    """Compares versions of a few gradients after the backward pass with those at the step: clipping changes them.

    Its hooks exist in one step, and only where gradients are plain tensors of one process.
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._versions: dict[Tensor, int] = {}

    def begin(self, access: ModelAccess) -> None:
        """Watches the gradients of the step that begins."""
        self.end()
        plain = [p.tensor for p in access.parameters if type(p.tensor) is torch.nn.Parameter and p.tensor.requires_grad]
        for parameter in plain[:_NUM_PARAMETERS]:
            self._handles.append(parameter.register_post_accumulate_grad_hook(self._after_backward))

    def _after_backward(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._versions[parameter] = parameter.grad._version

    def has_changed(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether a gradient of the optimizer's parameters has changed since the last backward pass."""
        if not self._versions:
            return False
        own = ids_of(optimizer)
        return any(
            id(p) in own and p.grad is not None and p.grad._version != version for p, version in self._versions.items()
        )

    def end(self) -> None:
        """Removes the hooks."""
        while self._handles:
            self._handles.pop().remove()
        self._versions.clear()
