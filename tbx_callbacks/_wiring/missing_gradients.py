"""Finds parameters that get no gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tbx_callbacks._model.forward_hooks import Hook
from tbx_callbacks._model.layers import layers_of
from tbx_callbacks._wiring.check import Check, listed


class MissingGradients:
    """Collects over some steps which parameters get a gradient.

    - `no_gradient` counts trainable parameters without one from the first layer on, if such a layer ran: the graph is
      cut behind them, by `torch.no_grad()` or `detach()`. Modules usually list their layers in the order of the forward
      pass. Parallel layers, as the experts of a mixture, are unused instead.
    - `unused_parameters` counts other trainable parameters without one: the loss does not depend on them.

    Args:
        parameters: the model's parameters by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = dict(parameters)
        self.with_gradient: set[int] = set()
        """Ids of the tensors that had a gradient."""
        self._optimized: set[int] = set()
        self._ran: set[str] | None = None  # modules without gradients whose forward pass ran; None: not watched
        self._watched: set[str] = set()
        self._handles: list[Any] = []

    def add_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Looks at the gradients in a step of an optimizer."""
        self._add([tensor for group in optimizer.param_groups for tensor in group["params"]])

    def add_backward(self) -> None:
        """Looks at the gradients after a backward pass, as if an optimizer had all parameters."""
        self._add(list(self._parameters.values()))

    def _add(self, optimized: Sequence[Tensor]) -> None:
        self._optimized.update(map(id, optimized))
        for tensor in (*optimized, *self._parameters.values()):
            if tensor.grad is not None:
                self.with_gradient.add(id(tensor))

    def watch(self, model: nn.Module | None) -> None:
        """Watches from now on whether modules without gradients run: one that never runs is not cut off.

        Without a call, no module counts as one that never runs.
        """
        if self._ran is None:
            self._ran = set()
        without = [name for name, tensor in self._parameters.items() if id(tensor) not in self.with_gradient]
        owners = {_parent(name) for name in without if self._parameters[name].requires_grad} - self._watched
        modules = {} if model is None or not owners else dict(model.named_modules())
        self._watched |= owners
        for owner in owners & modules.keys():
            self._handles.append(modules[owner].register_forward_hook(_Mark(partial(self._ran.add, owner))))

    def end(self) -> None:
        """Removes the hooks."""
        while self._handles:
            self._handles.pop().remove()

    def result(self) -> dict[str, Check]:
        """Returns the checks, once some steps were added."""
        trained = [
            name for name, tensor in self._parameters.items() if tensor.requires_grad and id(tensor) in self._optimized
        ]
        if not trained:
            return {}
        has_gradient = [id(self._parameters[name]) in self.with_gradient for name in trained]
        first = has_gradient.index(True) if True in has_gradient else len(trained)
        owners = {_parent(name) for name in self._parameters}
        containers = {owner[:end] for owner in owners for end, sign in enumerate(owner) if sign == "."}
        containers |= {""} if len(owners) > 1 else set()
        layers = dict(zip(trained, layers_of(trained), strict=True))
        # A parameter that a module with further modules has itself, as a mask token, is not cut off.
        layers.update({name: name for name in trained if _parent(name) in containers})
        # A layer of which only a part has no gradient is not cut off.
        cut = [name for name in trained[:first] if first == len(trained) or layers[name] != layers[trained[first]]]
        later = [name for name, found in zip(trained, has_gradient, strict=True) if not found and name not in set(cut)]
        # A cut reaches all layers up to one; layers without gradient on both sides of it are parallel, as experts are.
        parallel = {_parent(layers[name]) for name in later} - {""}
        cut = [name for name in cut if _parent(layers[name]) not in parallel and layers[name] != name]
        if self._ran is not None and first < len(trained) and self._ran.isdisjoint(map(_parent, cut)):
            cut = []
        unused = [name for name, found in zip(trained, has_gradient, strict=True) if not found and name not in set(cut)]
        in_layers = listed(layers[name] for name in cut)
        return {
            "no_gradient": Check(len(cut), "all" if cut and first == len(trained) else in_layers),
            "unused_parameters": Check(len(unused), listed(layers[name] for name in unused)),
        }


class _Mark(Hook):
    """A hook on the forward pass of a module that tells that it ran."""

    def __call__(self, *args: Any) -> None:
        if not torch.compiler.is_compiling():
            self._function()


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
