"""Measures by which factor the gradients of cross entropies enter a step, to find sums and wrong signs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._model.outputs import named_parts
from tbx_callbacks._wiring.check import Check

_TOLERANCE = 0.02  # of the factor; the gradient itself is compared within _RESIDUAL
_RESIDUAL = 1e-3
_MIN_SCALE = 7.5  # of a loss scale, as an exponent of 2
_MAX_LOGITS = 2**22  # of which a probability is computed


class GradientScale:
    """Reads the factor from the gradient of the logits, wherever the loss is computed.

    The gradient of a mean cross entropy over `n` rows is `(probabilities - one_hot) / n` (Bishop 2006, Pattern
    Recognition and Machine Learning, eq. 4.109), so the rest of a row's gradient follows from its smallest element. A
    loss of another form, or one that is multiplied by a loss scale, has no factor near 1 and is not judged.

    - `gradients_summed` is the number of micro-batches of a step if each one entered with the factor 1 instead of its
      share; 0 if not.
    - `loss_maximised` is 1 if each factor is negative, and 0 if one is positive. Only the factors that a loss scale or
      a number of micro-batches may be count as negative ones: others are rewards.
    """

    def __init__(self) -> None:
        self._factors: list[Tensor] = []
        self._handles: list[Any] = []
        self._found: list[Tensor] = []
        self._signs: list[Tensor] = []

    def add_outputs(self, outputs: Any) -> None:
        """Watches the gradient of the logits of a forward pass."""
        logits = outputs if isinstance(outputs, Tensor) else named_parts(outputs).get("logits")
        if not isinstance(logits, Tensor) or type(logits) is not Tensor or not logits.requires_grad:
            return
        if logits.ndim not in (2, 3) or logits.shape[-1] < 2 or logits.numel() > _MAX_LOGITS:
            return
        if logits.dtype not in (torch.float32, torch.float64):
            return
        known = logits.detach()
        self._handles.append(logits.register_hook(lambda gradient: self._read(known, gradient)))

    def _read(self, logits: Tensor, gradient: Tensor) -> None:
        with torch.no_grad():
            rows, of_rows = logits.flatten(0, -2), gradient.flatten(0, -2)
            factor = _factor(rows, of_rows)
            self._factors.append(factor)
            self._signs.append(torch.where(factor.isnan(), -_plain(_factor(rows, -of_rows)), factor.sign()))

    def add_step(self, backward_passes: int, *, kept: Tensor | None = None) -> None:
        """An optimizer has stepped.

        Args:
            backward_passes: the passes of the step; 0 if their number is unknown.
            kept: the share of the gradients that was left after the last pass, 0-d; None if it is unknown.
        """
        factors, self._factors = self._factors, []
        self._remove_hooks()
        if backward_passes < 2 or len(factors) < backward_passes:
            return
        factors = factors[-backward_passes:]  # those before had their gradients cleared
        factor = torch.stack([each.to(factors[0].device) for each in factors])
        is_one = ((factor - 1).abs() < _TOLERANCE).all()
        is_share = ((factor * backward_passes - 1).abs() < 0.5).all()  # shares of unequal micro-batches differ
        number = torch.where(is_one, float(backward_passes), torch.where(is_share, 0.0, -1.0))
        if kept is not None:  # divided after the last pass
            number = torch.where((kept * backward_passes - 1).abs().to(number.device) < _TOLERANCE, 0.0, number)
        self._found.append(number)

    def result(self) -> dict[str, Check]:
        """Returns the checks; that of sums needs a step of several micro-batches."""
        checks: dict[str, Check] = {}
        if self._found:
            checks["gradients_summed"] = Check(torch.stack(self._found).amin())
        if self._signs:
            signs = torch.stack([each.to(self._signs[0].device) for each in self._signs])
            is_negative = torch.where((signs < 0).all(), 1.0, -1.0)
            checks["loss_maximised"] = Check(torch.where((signs > 0).any(), 0.0, is_negative))
        return checks

    def end(self) -> None:
        """Removes the hooks."""
        self._remove_hooks()
        self._factors.clear()

    def _remove_hooks(self) -> None:
        while self._handles:
            self._handles.pop().remove()


def _plain(factor: Tensor) -> Tensor:
    """Returns 1 for a large power of two, as loss scales are, and for an inverse whole number; else NaN."""
    power, inverse = factor.abs().log2(), 1 / factor
    is_scale = (power > _MIN_SCALE) & ((power - power.round()).abs() < _TOLERANCE)
    is_plain = is_scale | ((inverse > 0.5) & ((inverse - inverse.round()).abs() < _TOLERANCE))
    return torch.where(is_plain & (factor > 0), 1.0, torch.nan)


def _factor(logits: Tensor, gradient: Tensor) -> Tensor:
    """Returns the factor of a mean cross entropy, 0-d; NaN for the gradient of another loss.

    Args:
        logits: `[rows, classes]`.
        gradient: of the same shape.
    """
    counted = (gradient != 0).any(-1, keepdim=True)
    target = gradient.argmin(-1, keepdim=True)
    unit = logits.softmax(-1).scatter_add(-1, target, torch.full_like(gradient, -1.0)[..., :1]) * counted
    rows = counted.sum()
    scale = (gradient * unit).sum() / (unit * unit).sum()
    is_exact = (gradient - scale * unit).abs().amax() <= _RESIDUAL * gradient.abs().amax()
    return torch.where(is_exact & (rows > 1), scale * rows, torch.nan).float()
