"""Computes the factor of gradient clipping by norm, and compares gradients before and after clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from tbx_callbacks._stats.flat import moved

T = TypeVar("T", float, Tensor)

_EPSILON = 1e-6
_NEGLIGIBLE = 1e-12  # of the largest square: such small gradients lose digits, and change no norm


def clip_factor(norm: T, max_norm: float) -> T:
    """Returns `min(1, max_norm / (norm + 1e-6))`, as in `torch.nn.utils.clip_grad_norm_`; NaN for a NaN norm."""
    factor = max_norm / (norm + _EPSILON)
    if isinstance(factor, Tensor):
        return factor.clamp(max=1.0)
    return 1.0 if factor > 1.0 or max_norm == math.inf else factor  # inf / inf would be NaN


def is_clipped(norms: Tensor, max_norm: float) -> Tensor:
    """Returns, for norms of any shape, whether clipping changes the gradients: the factor is below 1."""
    return norms + _EPSILON > max_norm


def ratio_bounds(before: Tensor, after: Tensor) -> list[Tensor]:
    """Compares the squared norms of gradients before and after clipping, `[gradients]` each.

    Gradients that are zero, negligible or not finite do not count. A ratio that is not finite counts as 0: clipping by
    a norm that is not finite leaves nothing.

    Returns:
        The negated lowest ratio `after / before` and the highest one, 0-d; -inf if no gradient counts.
    """
    if not before.numel():
        return []
    known = before.isfinite()
    largest = torch.where(known, before, torch.zeros_like(before)).max()
    known = known & (before > _NEGLIGIBLE * largest)
    ratios = torch.where(known, after.to(before) / before, torch.zeros_like(before)).nan_to_num(0.0, 0.0, 0.0)
    nothing = torch.full_like(before, -math.inf)
    return [torch.where(known, signed, nothing).max() for signed in (-ratios, ratios)]


def max_of(numbers: Sequence[Tensor]) -> Tensor:
    """Returns the maximum of 0-d tensors, which may be on several devices."""
    device = numbers[0].device
    return torch.stack([moved(number, device).to(numbers[0].dtype) for number in numbers]).max()
