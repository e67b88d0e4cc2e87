"""Computes what gradient clipping by norm multiplies gradients by."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

T = TypeVar("T", float, Tensor)

_EPSILON = 1e-6


def clip_factor(norm: T, max_norm: float) -> T:
    """`min(1, max_norm / (norm + 1e-6))`, as in `torch.nn.utils.clip_grad_norm_`; NaN for a norm that is NaN."""
    factor = max_norm / (norm + _EPSILON)
    if isinstance(factor, Tensor):
        return factor.clamp(max=1.0)
    return 1.0 if factor > 1.0 else factor


def is_clipped(norms: Tensor, max_norm: float) -> Tensor:
    """Whether clipping changes gradients of each norm, of any shape: their factor is below 1."""
    return norms + _EPSILON > max_norm
