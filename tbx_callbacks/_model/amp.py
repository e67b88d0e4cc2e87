"""Reads the loss scale of a torch.amp.GradScaler.

This is the only module that reads private attributes of GradScaler. Tested on torch 2.13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._stats.accumulators import LazySum, stack_scalars
from tbx_callbacks._stats.types import Number


def scale_of(scaler: Any) -> Tensor | None:
    """Returns the scaler's own tensor, without the host sync of `get_scale()`; None while there is no loss scale."""
    return getattr(scaler, "_scale", None) if scaler is not None and scaler.is_enabled() else None


def found_inf(optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Returns a tensor that is nonzero when a fused optimizer skips this step; None without a loss scale.

    GradScaler does not call other optimizers for a skipped step. It calls a fused optimizer, so its hooks run, and sets
    this attribute during the step.
    """
    flag = getattr(optimizer, "found_inf", None)
    return flag if isinstance(flag, Tensor) else None


def loss_scale(scaler: Any) -> LossScale | None:
    """Returns a tracker of the run's loss scale; None without one."""
    return LossScale(scaler) if scaler is not None and scaler.is_enabled() else None


class LossScale:
    """Tracks the loss scale of a run and counts skipped steps. Never waits for the device.

    GradScaler lowers the loss scale only when it skips a step, so each drop is one skipped step. The optimizer cannot
    tell: it may not be called at all, and a called one does not know.

    Args:
        scaler: an enabled GradScaler.
    """

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler
        self._last_scale: Number = scaler.get_scale()
        self._drops = LazySum(self._count)
        self.now: Tensor | None = None

    def sample(self) -> None:
        """Samples the loss scale; call it at least once between two updates of the scale."""
        scale = scale_of(self._scaler)
        if scale is not None:
            self.now = scale.detach().clone().reshape(())
            self._drops.add(self.now)

    @property
    def skipped(self) -> Number:
        """Number of steps skipped so far."""
        return self._drops.total()

    def _count(self, scales: Sequence[Tensor]) -> Tensor:
        previous = (
            self._last_scale if isinstance(self._last_scale, Tensor) else scales[0].new_full((), self._last_scale)
        )
        series = stack_scalars([previous, *scales])
        self._last_scale = series[-1]
        return (series[1:] < series[:-1]).sum()
