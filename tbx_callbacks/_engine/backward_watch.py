"""Defines `BackwardWatch`, which notices that gradients change between the backward pass and the optimizer's step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks._model.optimizers import ids_of

_NUM_NORMS, _MAX_ELEMENTS = 8, 2**16


class BackwardWatch:
    """Compares gradients after the backward pass with those at the step, as clipping changes them in between.

    A gradient has changed if it is another tensor, or its version is another one. Changes through `.data` have no
    version: on the CPU, the norms of a few small gradients show them. A GradScaler unscales by a power of two, which
    does not count.

    The hooks exist in one step, and only where gradients are plain tensors of one process.
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._seen: dict[Tensor, tuple[Tensor, int]] = {}
        self._norms: dict[Tensor, float] = {}

    def begin(self, access: ModelAccess) -> None:
        """Watches the gradients of the step that begins."""
        self.end()
        for parameter in access.parameters:
            if type(parameter.tensor) is torch.nn.Parameter and parameter.tensor.requires_grad:
                self._handles.append(parameter.tensor.register_post_accumulate_grad_hook(self._after_backward))

    def _after_backward(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        self._seen[parameter] = gradient, gradient._version
        is_small = gradient.device.type == "cpu" and not gradient.is_sparse and gradient.numel() <= _MAX_ELEMENTS
        if is_small and (parameter in self._norms or len(self._norms) < _NUM_NORMS):
            self._norms[parameter] = float(gradient.detach().norm())

    def has_changed(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether a gradient of the optimizer's parameters has changed since the last backward pass."""
        own = ids_of(optimizer) if self._seen else ()
        for parameter, (gradient, version) in self._seen.items():
            now = parameter.grad
            if id(parameter) not in own or now is None:
                continue
            if now is not gradient or now._version != version:
                return True
            norm = self._norms.get(parameter, 0.0)
            if norm and math.isfinite(norm) and math.frexp(float(now.detach().norm()) / norm)[0] != 0.5:
                return True
        return False

    def end(self) -> None:
        """Removes the hooks."""
        while self._handles:
            self._handles.pop().remove()
        self._seen.clear()
        self._norms.clear()
