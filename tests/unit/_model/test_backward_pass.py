"""Tests what runs when a backward pass is over."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tbx_callbacks._model.backward_pass import at_end_of_backward


def test_function_runs_after_gradients_and_other_functions() -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    found: list[object] = []

    def on_gradient(gradient: Tensor) -> None:
        at_end_of_backward(lambda: found.append(all(p.grad is not None for p in layers.parameters())))
        # Added later, as that of DistributedDataParallel when its last gradient exists.
        torch.autograd.Variable._execution_engine.queue_callback(lambda: found.append("earlier"))

    layers[1].bias.register_hook(on_gradient)
    for _ in range(2):
        layers(torch.ones(1, 2)).sum().backward()
        assert found == ["earlier", True]
        found.clear()
