"""Builds the Context of one step by hand, and finishes the values of a metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._model.parameters import Select, match, parameters_of
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks.metrics.base import Values
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.metrics.host_values import FinalValue

LAYERS = ("0", "2")
"""The layers of the context's model; each has a weight and a bias."""


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def tensors(seed: int) -> list[Tensor]:
    """One tensor for each parameter of the model."""
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(parameter.shape, generator=made) for parameter in model().parameters()]


def context(by: str = "layer", **changes: Any) -> Context:
    """A step of the model: weights, updates, and gradients clipped to a tenth."""
    parameters = parameters_of(model())
    gradients = tensors(1)
    given: dict[str, Any] = {
        "event": "step",
        "step": 10,
        "run": RunInfo(),
        "parameters": parameters,
        "selection": match(Select(by=by), parameters)[0],
        "weights": Tensors([parameter.tensor.detach() for parameter in parameters]),
        "before_clip": Tensors(gradients),
        "gradients": Tensors([gradient / 10 for gradient in gradients]),
        "updates": Tensors(tensors(2)),
        "clipping": "norm",
    }
    return Context(**{**given, **changes})


def by_layer(chosen: list[Tensor]) -> dict[str, Tensor]:
    """Each layer's elements as one flat float64 vector."""
    flat = [tensor.double().reshape(-1) for tensor in chosen]
    return {"0": torch.cat(flat[:2]), "2": torch.cat(flat[2:])}


def finished(values: Values, facts: Mapping[str, float] | None = None) -> dict[str, FinalValue]:
    """The final values of one rank that trains alone."""
    step_values = StepValues()
    step_values.add(values)
    return step_values.finish_local(facts)
