"""Loss scales (torch.amp.GradScaler): the one place that reads what torch keeps to itself. Tested on torch 2.13."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._stats.accumulators import LazySum, stack_scalars
from tbx_callbacks._stats.types import Number


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


def loss_scale(scaler: Any) -> LossScale | None:
    """The loss scale of a run, to be watched; None without one."""
    return LossScale(scaler) if scaler is not None and scaler.is_enabled() else None


class LossScale:
    """How the loss scale of a run changes. Nothing waits for the device.

    It falls when a step is skipped and never otherwise, so skipped steps are counted where it fell: by then an
    optimizer may not have been called at all, and one that was called cannot tell.

    Args:
        scaler: an enabled GradScaler.
    """

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler
        self._before: Number = scaler.get_scale()
        self._falls = LazySum(self._count)
        self.now: Tensor | None = None

    def sample(self) -> None:
        """Looks at the scale; to be called at least once between two updates of it."""
        scale = scale_of(self._scaler)
        if scale is not None:
            self.now = scale.detach().clone().reshape(())
            self._falls.add(self.now)

    @property
    def skipped(self) -> Number:
        """Steps skipped so far."""
        return self._falls.total()

    def _count(self, scales: Sequence[Tensor]) -> Tensor:
        before = self._before if isinstance(self._before, Tensor) else scales[0].new_full((), self._before)
        series = stack_scalars([before, *scales])
        self._before = series[-1]
        return (series[1:] < series[:-1]).sum()
