"""Finds parameters that two optimizers update with the same gradient."""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor

from tbx_callbacks._wiring.check import Check, listed


class SharedGradients:
    """Compares the gradients of a parameter in the steps of several optimizers.

    `parameter_in_two_optimizers` counts parameters that two optimizers update with one gradient. Optimizers of several
    tasks may share parameters: each one steps with a gradient of its own.
    """

    def __init__(self) -> None:
        # By parameter: the optimizer, its gradient, whose id may be that of a later one, and the gradient's version.
        self._last: dict[int, tuple[str, weakref.ref[Tensor], int]] = {}
        self._shared: set[int] = set()

    def add_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer has stepped."""
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                gradient = tensor.grad
                if gradient is None:
                    continue
                last = self._last.get(id(tensor))
                version = gradient._version
                if last is not None and last[0] != name and last[1]() is gradient and last[2] == version:
                    self._shared.add(id(tensor))
                self._last[id(tensor)] = name, weakref.ref(gradient), version

    def result(self, parameters: Mapping[str, Tensor]) -> dict[str, Check]:
        """Returns the check, once some steps were added.

        Args:
            parameters: the model's parameters by name.
        """
        if not self._last:
            return {}
        shared = [name for name, tensor in parameters.items() if id(tensor) in self._shared]
        return {"parameter_in_two_optimizers": Check(len(shared), listed(shared))}
