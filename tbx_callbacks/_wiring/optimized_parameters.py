"""Compares the parameters of a model with those of its optimizers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from tbx_callbacks._wiring.check import Check, listed


def compare(
    parameters: Mapping[str, Tensor],
    optimizers: Mapping[str, torch.optim.Optimizer],
    *,
    with_gradient: Collection[int],
    stepped: Collection[str],
) -> dict[str, Check]:
    """Compares a model with its optimizers after some steps.

    - `parameter_not_optimized` counts trainable parameters that got a gradient and belong to no optimizer.
    - `parameter_not_in_model` counts parameters of an optimizer that belong to no module and never got a gradient. A
      loss function may have parameters of its own; they get one.

    Args:
        parameters: the model's parameters by name.
        optimizers: its optimizers by name.
        with_gradient: ids of the tensors that had a gradient in some step.
        stepped: names of the optimizers that have stepped.
    """
    owned = {id(tensor) for optimizer in optimizers.values() for tensor in _tensors(optimizer)}
    free = [
        name
        for name, tensor in parameters.items()
        if tensor.requires_grad and id(tensor) in with_gradient and id(tensor) not in owned
    ]
    known = set(map(id, parameters.values()))
    outside = [
        tensor
        for name, optimizer in optimizers.items()
        if name in stepped
        for tensor in _tensors(optimizer)
        if id(tensor) not in known and id(tensor) not in with_gradient and tensor.requires_grad
    ]
    return {
        "parameter_not_optimized": Check(len(free), listed(free)),
        "parameter_not_in_model": Check(len(outside), listed(f"one of shape {list(each.shape)}" for each in outside)),
    }


def _tensors(optimizer: torch.optim.Optimizer) -> Sequence[Tensor]:
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]
