"""The tensors of a run: the model's parameters, their gradients, and the optimizers that they belong to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tbx_callbacks._model.names import unique
from tbx_callbacks._model.optimizer_state import OptimizerStateView
from tbx_callbacks._model.parameters import Parameter, parameters_by_optimizer, parameters_of
from tbx_callbacks._model.sharding.deepspeed import DeepSpeedSharding
from tbx_callbacks._model.sharding.dtensor import is_partial_sum, is_primary_replica, is_sharded, local, owning_ranks
from tbx_callbacks._model.sharding.fsdp1 import sharded_over
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._stats.types import Number
from tbx_callbacks.tags import clean

logger = logging.getLogger(__name__)

Lowest = Callable[[Tensor, Sequence[str]], Tensor]


class ModelAccess:
    """What can be read in an optimizer's step: its own parameters only, for others may be left from another step.

    Args:
        model: the model.
        optimizers: by name.
        lowest: takes the smallest of each number over ranks (`Reducer.min_reduce`); None where there is one rank.
        zero: holds the parameters' parts, under DeepSpeed ZeRO.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        lowest: Lowest | None = None,
        deepspeed: DeepSpeedSharding | None = None,
    ) -> None:
        self.parameters = _readable(parameters_of(model))
        self.deepspeed = deepspeed
        held = sharded_over(model) if deepspeed is None else deepspeed.sharded_over([p.tensor for p in self.parameters])
        self.sharded_ids = frozenset(index for index, ranks_of in held.items() if len(ranks_of) > 1)
        """Ids of plain parameters of which this rank holds a piece."""
        self.is_sharded = any(is_sharded(p.tensor, held.get(id(p.tensor), ())) for p in self.parameters)
        self._local = _mine(self.parameters, held, lowest)
        self.optimizers = optimizers
        self.parameters_by_optimizer = parameters_by_optimizer(self.parameters, optimizers)
        self._said: dict[str, set[str]] = {name: set() for name in optimizers}
        self._owned = {name: frozenset(indices) for name, indices in self.parameters_by_optimizer.items()}

    @property
    def device(self) -> torch.device:
        """Of the first parameter."""
        return self.parameters[0].tensor.device if self.parameters else torch.device("cpu")

    def gradients(self, name: str, scale: Tensor | None = None) -> Tensors:
        """Gradients of one optimizer's parameters; `scale` is the loss scale that they still carry."""
        owned = self._owned[name] & self._local
        return Tensors([self.gradient(i) if i in owned else None for i in range(len(self.parameters))], scale)

    def gradient(self, index: int) -> Tensor | None:
        """This rank's elements of a parameter's gradient."""
        tensor = self.parameters[index].tensor
        if self.deepspeed is not None:
            return self.deepspeed.gradient(tensor)
        return None if tensor.grad is None else local(tensor.grad)

    def has_gradient(self, index: int) -> bool:
        """Whether a parameter has a gradient, readable or not: the optimizer steps on it."""
        tensor = self.parameters[index].tensor
        return tensor.grad is not None if self.deepspeed is None else self.deepspeed.gradient(tensor) is not None

    def partial_gradients(self, name: str) -> frozenset[int]:
        """Places of one optimizer's gradients that are partial sums, which `gradients` leaves out."""
        return frozenset(i for i in self._owned[name] if is_partial_sum(self.parameters[i].tensor.grad))

    def weights(self, name: str) -> Tensors:
        """One optimizer's parameters."""
        owned = self._owned[name] & self._local
        return Tensors([self.weight(i) if i in owned else None for i in range(len(self.parameters))])

    def weight(self, index: int) -> Tensor | None:
        """This rank's elements of a parameter."""
        tensor = self.parameters[index].tensor
        return local(tensor.detach()) if self.deepspeed is None else self.deepspeed.weight(tensor)

    def is_local(self, index: int) -> bool:
        """Whether this rank speaks for its elements of a parameter: of replicas one does."""
        return index in self._local

    def optimizer_state(self, name: str) -> OptimizerStateView:
        """What one optimizer remembers of its parameters."""
        return OptimizerStateView(self.optimizers[name], self.parameters, self._said[name], self._local, self.deepspeed)

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


def _mine(parameters: Sequence[Parameter], held: Mapping[int, Sequence[int]], lowest: Lowest | None) -> frozenset[int]:
    """Places of the parameters for whose elements this rank speaks: each element is counted once over all ranks."""
    if lowest is None:
        return frozenset(range(len(parameters)))
    here = owning_ranks([p.tensor for p in parameters], held)
    first = lowest(here.clone(), [p.name for p in parameters])
    return frozenset(
        index for index, p in enumerate(parameters) if here[index] == first[index] and is_primary_replica(p.tensor)
    )


def _readable(parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Those whose elements are numbers that can be read; the others are named once."""
    reasons = {p.name: reason for p in parameters if (reason := _unreadable(p.tensor)) is not None}
    if reasons:
        shown = ", ".join(f"{name} ({reason})" for name, reason in list(reasons.items())[:3])
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        logger.warning("parameters whose elements cannot be read are left out of all metrics: %s%s", shown, more)
    return tuple(p for p in parameters if p.name not in reasons)


def _unreadable(tensor: Any) -> str | None:
    if tensor.is_meta:
        return "on the meta device: it has no elements"
    if tensor.is_quantized or not (tensor.is_floating_point() or tensor.is_complex()):
        return f"{tensor.dtype}: its elements are packed or quantized"
    if not isinstance(tensor, DTensor) and is_traceable_wrapper_subclass(tensor):
        return f"{type(tensor).__name__}: a tensor made of other tensors"
    return None
