"""The norm of the step that an optimizer made of a parameter, from its state, the gradient and the new weight.

Every function returns a 0-d tensor, without decoupled weight decay, or None where the optimizer has not stepped. None
waits for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._stats.flat import flat
from tbx_callbacks._stats.norms import square_norms

ParameterState = Mapping[str, Any]
Step = Callable[[ParameterState, ParameterState, Tensor, Tensor | None], Tensor | None]
"""State, param group, new weight, gradient -> norm of the step."""

_CHUNK = 1 << 18  # elements worked on at a time on a CPU: they stay in its cache, and no tensor is copied whole


def state_tensor(kept: ParameterState, name: str) -> Tensor | None:
    """What is kept under a name, where that is a tensor of numbers."""
    found = kept.get(name)
    return found if isinstance(found, Tensor) and (found.is_floating_point() or found.is_complex()) else None


def update_norm_of(optimizer: torch.optim.Optimizer, *, whole: bool) -> Step | None:
    """How the norm of an optimizer's step is computed; None when that is not known.

    Args:
        optimizer: the optimizer.
        whole: whether tensors are whole here, not this rank's share: Adafactor's step needs means over a tensor.
    """
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return _adam
    if isinstance(optimizer, torch.optim.SGD):
        return _momentum
    if whole and isinstance(optimizer, getattr(torch.optim, "Adafactor", ())):
        return _adafactor
    if whole and (type(optimizer).__module__, type(optimizer).__name__) == ("transformers.optimization", "Adafactor"):
        return _adafactor_of_transformers
    return None


def _adam(kept: ParameterState, group: ParameterState, weight: Tensor, gradient: Tensor | None) -> Tensor | None:  # noqa: ARG001
    """`lr * m_hat / (sqrt(v_hat) + eps)`: Kingma and Ba, arXiv:1412.6980, algorithm 1; with amsgrad the largest v."""
    first = state_tensor(kept, "exp_avg")
    second = state_tensor(kept, "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq")
    if first is None or second is None:
        return None
    steps, (beta1, beta2) = kept["step"], group["betas"]
    if isinstance(steps, Tensor) and steps.device.type != "mps":
        steps = steps.double()  # 1 - 0.999**1 is 6e-5 off in float32
    rate, correction = group["lr"] / (1 - beta1**steps), (1 - beta2**steps) ** 0.5

    def step(m: Tensor, v: Tensor) -> Tensor:
        return m / (v.sqrt().div_(correction).add_(group["eps"]))

    return _norm(step, first, second, rate=rate)


def _momentum(kept: ParameterState, group: ParameterState, weight: Tensor, gradient: Tensor | None) -> Tensor | None:
    """`lr * buffer`; with nesterov `lr * (gradient + decay * old weight + momentum * buffer)`, as in torch."""
    buffer, rate, decay = state_tensor(kept, "momentum_buffer"), group["lr"], group["weight_decay"]
    if buffer is None:
        return None
    if not group["nesterov"]:
        return _norm(lambda b: b, buffer, rate=rate)
    if gradient is None:
        return None

    def step(b: Tensor, g: Tensor, new: Tensor) -> Tensor:
        found = (-g if group["maximize"] else g) + group["momentum"] * b
        # the old weight is not kept: old - rate * (found + decay * old) = new
        made: Tensor = found + decay * (new + rate * found) / (1 - rate * decay) if decay else found
        return made

    return _norm(step, buffer, gradient, weight, rate=rate)


def _adafactor(kept: ParameterState, group: ParameterState, weight: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Shazeer and Stern, arXiv:1804.04235, algorithms 4 and 5, as in torch.optim.Adafactor."""
    row, column, vector = (state_tensor(kept, name) for name in ("row_var", "col_var", "variance"))
    if gradient is None or (vector is None and (row is None or column is None)):
        return None
    least, eps2 = group["eps"]
    least = torch.finfo(weight.dtype).eps if least is None else least
    if vector is None:
        assert row is not None and column is not None  # noqa: PT018
        estimate = row @ column / row.mean(dim=-2, keepdim=True).clamp(min=least)
    else:
        estimate = vector
    update = estimate.clamp(min=least * least).rsqrt() * gradient
    squares = torch.stack([(weight * weight).mean(), (weight * update).mean(), (update * update).mean()]).double()
    weights, both, updates = squares if not group["maximize"] else squares * squares.new_tensor([1.0, -1.0, 1.0])
    rate = torch.minimum(torch.as_tensor(group["lr"]).to(updates), kept["step"].to(updates).rsqrt())
    rate = rate / (updates.sqrt() / group["d"]).clamp(min=1.0)
    # The step is rate * max(eps2, rms(old)) * update, but the old weight is not kept. It is (new + step) / shrink, so
    # with r = rms(old):  (shrink * r)**2 = weights + 2 * rate * r * both + (rate * r)**2 * updates.
    shrink = 1 - group["lr"] * group["weight_decay"]
    square = shrink**2 - rate**2 * updates
    old = (rate * both + (rate**2 * both**2 + square * weights).sqrt()) / square
    norm: Tensor = rate * old.clamp(min=eps2) * updates.sqrt() * weight.numel() ** 0.5
    return norm


def _adafactor_of_transformers(
    kept: ParameterState, group: ParameterState, weight: Tensor, gradient: Tensor | None
) -> Tensor | None:
    """The same, as in transformers.Adafactor, which keeps the old weight's root mean square."""
    if group["beta1"] is not None:
        first = state_tensor(kept, "exp_avg")
        return None if first is None else _norm(lambda m: m, first)
    row, column, vector = (state_tensor(kept, name) for name in ("exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"))
    if gradient is None or (vector is None and (row is None or column is None)):
        return None
    if vector is None:
        assert row is not None and column is not None  # noqa: PT018
        factor = (row / row.mean(dim=-1, keepdim=True)).rsqrt().unsqueeze(-1) * column.unsqueeze(-2).rsqrt()
    else:
        factor = vector.rsqrt()
    update = (factor * gradient.float()).square().mean().sqrt()
    rate = group["lr"]
    if group["relative_step"]:
        rate = min(1e-6 * kept["step"] if group["warmup_init"] else 1e-2, kept["step"] ** -0.5)
    if group["scale_parameter"]:
        rate = rate * torch.as_tensor(kept["RMS"]).to(update).clamp(min=group["eps"][1])
    norm: Tensor = update.clamp(max=group["clip_threshold"]) * rate * weight.numel() ** 0.5
    return norm


def _norm(function: Callable[..., Tensor], *tensors: Tensor, rate: Tensor | float = 1.0) -> Tensor:
    """L2 norm of `rate * function(*tensors)`, 0-d, without a copy of a whole tensor on a CPU."""
    whole = [flat(tensor) for tensor in tensors]
    chunk = _CHUNK if whole[0].device.type == "cpu" else max(1, whole[0].numel())
    parts = zip(
        *(tensor.float().split(chunk) if tensor.dtype.itemsize < 4 else tensor.split(chunk) for tensor in whole),
        strict=True,
    )
    squares = [square_norms([function(*part)]) for part in parts]
    return torch.stack(squares).sum().sqrt() * rate if squares else whole[0].new_zeros(())
