"""Computes the norm of an optimizer's step on a parameter, from its state, the gradient and the new weight.

Every function returns a 0-d tensor, without decoupled weight decay, or None when the optimizer has not stepped. No
function waits for a device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tbx_callbacks._model.sharding.base import ParameterState
from tbx_callbacks._stats.flat import flat
from tbx_callbacks._stats.norms import square_norms

Step = Callable[[ParameterState, ParameterState, Tensor, Tensor | None], Tensor | None]
"""(state, param group, new weight, gradient) -> norm of the step."""

_CHUNK = 1 << 18  # elements per chunk on a CPU: a chunk stays in cache, and no full copy of a tensor is needed


def state_tensor(state: ParameterState, name: str) -> Tensor | None:
    """Returns the state entry of this name if it is a floating-point or complex tensor, else None."""
    value = state.get(name)
    return value if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()) else None


def update_norm_of(optimizer: torch.optim.Optimizer, *, unsharded: bool) -> Step | None:
    """Returns the function that computes the norm of an optimizer's step; None for unsupported optimizers.

    Args:
        optimizer: the optimizer.
        unsharded: whether this rank holds full tensors, not shards: Adafactor's step needs means over a tensor.
    """
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return _adam
    if isinstance(optimizer, torch.optim.SGD):
        return _momentum
    if unsharded and isinstance(optimizer, getattr(torch.optim, "Adafactor", ())):
        return _adafactor
    if unsharded and (type(optimizer).__module__, type(optimizer).__name__) == (
        "transformers.optimization",
        "Adafactor",
    ):
        return _adafactor_of_transformers
    return None


def _adam(state: ParameterState, group: ParameterState, weight: Tensor, gradient: Tensor | None) -> Tensor | None:  # noqa: ARG001
    """Norm of `lr * m_hat / (sqrt(v_hat) + eps)`: Kingma and Ba, arXiv:1412.6980, algorithm 1; amsgrad uses max v."""
    first = state_tensor(state, "exp_avg")
    second = state_tensor(state, "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq")
    if first is None or second is None:
        return None
    steps, (beta1, beta2) = state["step"], group["betas"]
    if isinstance(steps, Tensor) and steps.device.type != "mps":
        steps = steps.double()  # in float32, 1 - 0.999**1 has an error of 6e-5
    rate, correction = group["lr"] / (1 - beta1**steps), (1 - beta2**steps) ** 0.5

    def step(m: Tensor, v: Tensor) -> Tensor:
        return m / (v.sqrt().div_(correction).add_(group["eps"]))

    return _norm(step, first, second, rate=rate)


def _momentum(state: ParameterState, group: ParameterState, weight: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Norm of `lr * buffer`; with nesterov `lr * (gradient + decay * old weight + momentum * buffer)`, as in torch."""
    buffer, rate, decay = state_tensor(state, "momentum_buffer"), group["lr"], group["weight_decay"]
    if buffer is None:
        return None
    if not group["nesterov"]:
        return _norm(lambda b: b, buffer, rate=rate)
    if gradient is None:
        return None

    def step(b: Tensor, g: Tensor, new: Tensor) -> Tensor:
        direction = (-g if group["maximize"] else g) + group["momentum"] * b
        # SGD does not keep the old weight. It solves old - rate * (direction + decay * old) = new.
        result: Tensor = direction + decay * (new + rate * direction) / (1 - rate * decay) if decay else direction
        return result

    return _norm(step, buffer, gradient, weight, rate=rate)


def _adafactor(state: ParameterState, group: ParameterState, weight: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Norm of the step of torch.optim.Adafactor: Shazeer and Stern, arXiv:1804.04235, algorithms 4 and 5."""
    row, column, vector = (state_tensor(state, name) for name in ("row_var", "col_var", "variance"))
    if gradient is None or (vector is None and (row is None or column is None)):
        return None
    floor, eps2 = group["eps"]
    floor = torch.finfo(weight.dtype).eps if floor is None else floor
    if vector is None:
        assert row is not None and column is not None  # noqa: PT018
        estimate = row @ column / row.mean(dim=-2, keepdim=True).clamp(min=floor)
    else:
        estimate = vector
    update = estimate.clamp(min=floor * floor).rsqrt() * gradient
    squares = torch.stack([(weight * weight).mean(), (weight * update).mean(), (update * update).mean()]).double()
    weights, cross, updates = squares if not group["maximize"] else squares * squares.new_tensor([1.0, -1.0, 1.0])
    rate = torch.minimum(torch.as_tensor(group["lr"]).to(updates), state["step"].to(updates).rsqrt())
    rate = rate / (updates.sqrt() / group["d"]).clamp(min=1.0)
    # The step is rate * max(eps2, rms(old)) * update, but Adafactor does not keep the old weight.
    # old = (new + step) / shrink, so with r = rms(old):
    # (shrink * r)**2 = weights + 2 * rate * r * cross + (rate * r)**2 * updates.
    shrink = 1 - group["lr"] * group["weight_decay"]
    square = shrink**2 - rate**2 * updates
    old = (rate * cross + (rate**2 * cross**2 + square * weights).sqrt()) / square
    norm: Tensor = rate * old.clamp(min=eps2) * updates.sqrt() * weight.numel() ** 0.5
    return norm


def _adafactor_of_transformers(
    state: ParameterState, group: ParameterState, weight: Tensor, gradient: Tensor | None
) -> Tensor | None:
    """Norm of the step of transformers.Adafactor, which keeps the root mean square of the old weight."""
    if group["beta1"] is not None:
        first = state_tensor(state, "exp_avg")
        return None if first is None else _norm(lambda m: m, first)
    row, column, vector = (state_tensor(state, name) for name in ("exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"))
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
        rate = min(1e-6 * state["step"] if group["warmup_init"] else 1e-2, state["step"] ** -0.5)
    if group["scale_parameter"]:
        rate = rate * torch.as_tensor(state["RMS"]).to(update).clamp(min=group["eps"][1])
    norm: Tensor = update.clamp(max=group["clip_threshold"]) * rate * weight.numel() ** 0.5
    return norm


def _norm(function: Callable[..., Tensor], *tensors: Tensor, rate: Tensor | float = 1.0) -> Tensor:
    """Returns the L2 norm of `rate * function(*tensors)`, 0-d, without a full copy of a tensor on a CPU."""
    flats = [flat(tensor) for tensor in tensors]
    chunk = _CHUNK if flats[0].device.type == "cpu" else max(1, flats[0].numel())
    parts = zip(
        *(tensor.float().split(chunk) if tensor.dtype.itemsize < 4 else tensor.split(chunk) for tensor in flats),
        strict=True,
    )
    squares = [square_norms([function(*part)]) for part in parts]
    return torch.stack(squares).sum().sqrt() * rate if squares else flats[0].new_zeros(())
