"""The tensors of a run: the model's parameters, their gradients, and the optimizers that they belong to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tbx_callbacks.context import Tensors
from tbx_callbacks.names import clean, unique
from tbx_callbacks.plan import owners
from tbx_callbacks.select import parameters_of
from tbx_callbacks.state import State
from tbx_callbacks.values import Number


class Source:
    """What can be read in an optimizer's step: its own parameters only, for others may be left from another step.

    Args:
        model: the model.
        optimizers: by name.
    """

    def __init__(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self.parameters = parameters_of(model)
        self.optimizers = optimizers
        self.owners = owners(self.parameters, optimizers)
        self._said: dict[str, set[str]] = {name: set() for name in optimizers}
        self._owned = {name: frozenset(places) for name, places in self.owners.items()}

    def gradients(self, name: str, scale: Tensor | None = None) -> Tensors:
        """Gradients of one optimizer's parameters; `scale` is the loss scale that they still carry."""
        owned = self._owned[name]
        return Tensors([p.tensor.grad if place in owned else None for place, p in enumerate(self.parameters)], scale)

    def weights(self, name: str) -> Tensors:
        """One optimizer's parameters."""
        owned = self._owned[name]
        return Tensors([p.tensor if place in owned else None for place, p in enumerate(self.parameters)])

    def state(self, name: str) -> State:
        """What one optimizer remembers of its parameters."""
        return State(self.optimizers[name], self.parameters, self._said[name])

    def learning_rates(self) -> dict[str, Number]:
        """The rates that the step used, by `<Optimizer>/<group>`."""
        rates: dict[str, Number] = {}
        for name, optimizer in self.optimizers.items():
            groups = [clean(str(group.get("name") or f"pg{n}")) for n, group in enumerate(optimizer.param_groups, 1)]
            for group_name, group in zip(unique(groups), optimizer.param_groups, strict=True):
                rate = group["lr"]
                # A tensor is changed in place by the scheduler before the step is published.
                rates[f"{name}/{group_name}"] = rate.detach().clone().reshape(()) if isinstance(rate, Tensor) else rate
        return rates
