"""Computes the factor of gradient clipping by norm."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

T = TypeVar("T", float, Tensor)

_EPSILON = 1e-6


def clip_factor(norm: T, max_norm: float) -> T:
    """Returns `min(1, max_norm / (norm + 1e-6))`, as in `torch.nn.utils.clip_grad_norm_`; NaN for a NaN norm."""
    factor = max_norm / (norm + _EPSILON)
    if isinstance(factor, Tensor):
        return factor.clamp(max=1.0)
    return 1.0 if factor > 1.0 or max_norm == math.inf else factor  # inf / inf would be NaN


def is_clipped(norms: Tensor, max_norm: float) -> Tensor:
    """Returns, for norms of any shape, whether clipping changes the gradients: the factor is below 1."""
    return norms + _EPSILON > max_norm
