"""Loss scales (torch.amp.GradScaler): the one place that reads what torch keeps to itself. Tested on torch 2.13."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scale_of(scaler: Any) -> Tensor | None:
    """The loss scale where it is kept, without a host sync, unlike `get_scale()`; None without one (yet)."""
    return getattr(scaler, "_scale", None) if scaler is not None and scaler.is_enabled() else None


def found_inf(optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Whether this step of a fused optimizer does nothing (not 0: it does); None without a loss scale.

    Others are not called for a step that is skipped. A fused one is, so its hooks run; GradScaler tells it by an
    attribute that it has during the step only.
    """
    found = getattr(optimizer, "found_inf", None)
    return found if isinstance(found, Tensor) else None
