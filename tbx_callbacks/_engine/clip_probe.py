"""Defines `ClipProbe`, which finds out whether gradients were clipped, where the trainer does not report the norm."""

from __future__ import annotations

import torch
from torch import Tensor

from tbx_callbacks._model.model_access import ModelAccess
from tbx_callbacks._model.sharding.dtensor import local
from tbx_callbacks._stats.flat import moved

_NUM_TENSORS, _MAX_ELEMENTS = 8, 2**16


class ClipProbe:
    """Compares a few small gradients from before clipping with the same ones after it.

    Clipping by norm multiplies all gradients by one factor, which is exactly 1 if nothing is clipped.
    """

    def __init__(self) -> None:
        self._gradients: list[Tensor] = []
        self._before: Tensor | None = None

    def begin(self, access: ModelAccess, scale: Tensor | None) -> None:
        """Reads the gradients before clipping; `scale` is the loss scale that they still contain."""
        self._gradients = _small_gradients(access)
        self._before = _norms(self._gradients)
        if self._before is not None and scale is not None:
            self._before = self._before / moved(scale, self._before.device).to(self._before.dtype)

    def end(self) -> Tensor | None:
        """Returns 1.0 if the gradients have changed since, else 0.0, without a host sync; None if that is unknown."""
        before, self._before = self._before, None
        gradients, self._gradients = self._gradients, []
        after = _norms(gradients)
        return None if before is None or after is None else (after != before).any().float()

    @property
    def is_pending(self) -> bool:
        """Whether gradients were read and not compared yet."""
        return self._before is not None


def _small_gradients(access: ModelAccess) -> list[Tensor]:
    found: list[Tensor] = []
    for parameter in access.parameters:
        gradient = None if parameter.tensor.grad is None else local(parameter.tensor.grad)
        if gradient is not None and not gradient.is_sparse and 0 < gradient.numel() <= _MAX_ELEMENTS:
            found.append(gradient)
            if len(found) == _NUM_TENSORS or gradient.device != found[0].device:
                break
    return [gradient for gradient in found if gradient.device == found[0].device]


@torch.no_grad()
def _norms(gradients: list[Tensor]) -> Tensor | None:
    if not gradients:
        return None
    return torch.stack([norm.float() for norm in torch._foreach_norm(gradients)])
