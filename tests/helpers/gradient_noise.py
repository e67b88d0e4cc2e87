"""Computes the gradient's noise scale from the gradient of every single example, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn


def exact_noise_scale(
    model: nn.Module, examples: int, loss: Callable[[nn.Module, int], Tensor], *, frozen: Sequence[str] = ()
) -> float:
    """`tr(Sigma) / |G|**2` of the examples, drawn one by one; `loss(model, index)` is that of one example."""
    copy = deepcopy(model).double()
    parameters = [parameter for name, parameter in copy.named_parameters() if name not in frozen]
    rows = []
    for index in range(examples):
        gradients = torch.autograd.grad(loss(copy, index), parameters)
        rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    gradients = torch.stack(rows)
    mean = gradients.mean(0)
    return float((gradients - mean).square().sum(1).mean() / mean.square().sum())
