"""Reads the tensors of a run: the model's parameters, gradients, optimizer state and learning rates."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tbx_callbacks._model.adapters import Adapter, find_adapters
from tbx_callbacks._model.names import unique
from tbx_callbacks._model.optimizer_state import OptimizerStateView
from tbx_callbacks._model.parameters import Parameter, parameters_by_optimizer, parameters_of
from tbx_callbacks._model.replicas import Replicas, ReplicaView
from tbx_callbacks._model.sharding import find_sharding
from tbx_callbacks._model.sharding.base import Sharding
from tbx_callbacks._model.sharding.dtensor import is_primary_replica, is_sharded, owning_ranks, partial_sums_in
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._stats.types import Number
from tbx_callbacks.tags import clean

logger = logging.getLogger(__name__)

MinReduce = Callable[[Tensor, Sequence[str]], tuple[Tensor, list[int]]]


class ModelAccess:
    """Reads the parameters of a model, for one optimizer at a time.

    In the step of one optimizer, gradients of another optimizer's parameters may be left over from another step.

    It describes the model and the optimizers as they were when it was created. When `has_changed` says that they have
    other parameters now, create a new one.

    Args:
        model: the model.
        optimizers: optimizers by name.
        sharding: reads this rank's elements; by default `find_sharding(model)`.
        min_reduce: takes the minimum of each number over ranks, and counts the ranks (`Reducer.min_reduce`); None with
            a single rank.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        sharding: Sharding | None = None,
        min_reduce: MinReduce | None = None,
    ) -> None:
        self._model = model
        self._model_parts: list[dict[str, Any]] = [
            part for module in model.modules() for part in (module._parameters, module._modules)
        ]
        self._seen_parts: list[Any] = list(chain.from_iterable(map(dict.values, self._model_parts)))
        self._seen_groups = _grouped_ids(optimizers)
        self.parameters = _select_readable(parameters_of(model))
        self.sharding = sharding or find_sharding(model)
        self._tensors: list[Tensor] = [parameter.tensor for parameter in self.parameters]
        ranks_by_id = self.sharding.shard_ranks(self._tensors)
        self.sharded_ids = frozenset(index for index, shard_ranks in ranks_by_id.items() if len(shard_ranks) > 1)
        """Ids of plain parameters of which this rank holds a shard."""
        self.is_sharded = any(is_sharded(p.tensor, ranks_by_id.get(id(p.tensor), ())) for p in self.parameters)
        self._local, holders = _counted_parameters(self.parameters, ranks_by_id, min_reduce)
        self.replicas = Replicas(model, self.parameters, holders, self.sharded_ids) if holders else None
        """The tensors of which other ranks hold copies; None with a single rank."""
        self.optimizers = optimizers
        self.parameters_by_optimizer = parameters_by_optimizer(self.parameters, optimizers)
        self._warned: dict[str, set[str]] = {name: set() for name in optimizers}
        self._chosen = {
            name: [index for index in indices if index in self._local]
            for name, indices in self.parameters_by_optimizer.items()
        }

    @property
    def device(self) -> torch.device:
        """Device of the first parameter; the CPU when the model has no parameters."""
        return self.parameters[0].tensor.device if self.parameters else torch.device("cpu")

    @cached_property
    def adapters(self) -> list[Adapter]:
        """The model's LoRA adapters."""
        return find_adapters(self._model, {id(parameter.tensor): parameter.name for parameter in self.parameters})

    def has_changed(self) -> bool:
        """Whether the model or an optimizer has other parameters now, or the model other modules."""
        parts = list(chain.from_iterable(map(dict.values, self._model_parts)))
        # Compares identities: a comparison of tensors would compare their elements.
        same = len(parts) == len(self._seen_parts) and all(map(operator.is_, parts, self._seen_parts))
        return not same or _grouped_ids(self.optimizers) != self._seen_groups

    def gradient_elements(self, name: str) -> list[Tensor | None]:
        """Returns this rank's elements of the gradients of one optimizer's parameters, counted on this rank or not."""
        return self._read(self.parameters_by_optimizer[name], self.sharding.gradients)

    def counted(self, name: str, elements: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Returns the elements of the optimizer's parameters that this rank counts, and None for all others."""
        result: list[Tensor | None] = [None] * len(self._tensors)
        for index in self._chosen[name] if elements else ():
            result[index] = elements[index]
        return result

    def gradients(self, name: str, scale: Tensor | None = None) -> Tensors:
        """Returns the gradients of one optimizer's parameters; `scale` is the loss scale that they still contain."""
        return Tensors(self._read(self._chosen[name], self.sharding.gradients), scale)

    def weights(self, name: str) -> Tensors:
        """Returns the parameters of one optimizer."""
        return Tensors(self._read(self._chosen[name], self.sharding.weights))

    def weights_at(self, indices: Sequence[int]) -> list[Tensor | None]:
        """Returns this rank's elements of some parameters."""
        return self.sharding.weights([self._tensors[index] for index in indices])

    def have_gradients(self, indices: Sequence[int]) -> list[bool]:
        """Whether each parameter has a gradient, readable or not, so that the optimizer updates it."""
        return self.sharding.has_gradients([self._tensors[index] for index in indices])

    def partial_gradients(self, name: str) -> frozenset[int]:
        """Returns the indices of one optimizer's gradients that are partial sums; `gradients` leaves them out."""
        return frozenset(partial_sums_in({i: self._tensors[i].grad for i in self.parameters_by_optimizer[name]}))

    def counts_any(self, name: str) -> bool:
        """Whether this rank counts any parameter of the optimizer."""
        return bool(self._chosen[name])

    def is_local(self, index: int) -> bool:
        """Whether this rank counts its elements of a parameter: exactly one replica does."""
        return index in self._local

    def replica_view(self, name: str) -> ReplicaView | None:
        """Returns a view of one optimizer's copies, read on demand; None if no other rank may hold any.

        DeepSpeed's shards have no copies.
        """
        if self.replicas is None or self.sharding.frees_gradients or self.device.type == "mps":  # it lacks float64
            return None
        optimizer = self.optimizers[name]
        return ReplicaView(
            self.replicas, optimizer, self.sharding, is_first=optimizer is next(iter(self.optimizers.values()))
        )

    def optimizer_state(self, name: str) -> OptimizerStateView:
        """Returns a view of one optimizer's state, which is read on first access."""
        return OptimizerStateView(
            self.optimizers[name],
            self._tensors,
            self._warned[name],
            self._local,
            sharding=self.sharding,
            is_sharded=self.is_sharded,
        )

    def _read(
        self, indices: Sequence[int], read: Callable[[Sequence[Tensor]], list[Tensor | None]]
    ) -> list[Tensor | None]:
        """Returns the elements that `read` finds of some parameters, in a list over all parameters."""
        elements = read([self._tensors[index] for index in indices])
        if len(indices) == len(self._tensors):
            return elements
        result: list[Tensor | None] = [None] * len(self._tensors)
        for index, tensor in zip(indices, elements, strict=True):
            result[index] = tensor
        return result


def rates_of(optimizer: torch.optim.Optimizer) -> list[Number | None]:
    """Returns the learning rate of each parameter group, copied: a scheduler may change a tensor in place."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    return [rate.detach().clone().reshape(()) if isinstance(rate, Tensor) else rate for rate in rates]


def named_rates(name: str, optimizer: torch.optim.Optimizer, rates: Sequence[Number | None]) -> dict[str, Number]:
    """Returns the rates of an optimizer's groups by `<Optimizer>/<group>`; groups without a rate are left out."""
    groups = [clean(str(group.get("name") or f"pg{n}")) for n, group in enumerate(optimizer.param_groups, 1)]
    named = zip(unique(groups), rates, strict=False)
    return {f"{name}/{group}": rate for group, rate in named if rate is not None}


def _grouped_ids(optimizers: Mapping[str, torch.optim.Optimizer]) -> list[list[int]]:
    return [
        [id(optimizer), *[id(tensor) for group in optimizer.param_groups for tensor in group["params"]]]
        for optimizer in optimizers.values()
    ]


def _counted_parameters(
    parameters: Sequence[Parameter], ranks_by_id: Mapping[int, Sequence[int]], min_reduce: MinReduce | None
) -> tuple[frozenset[int], list[int]]:
    """Returns the indices of parameters whose elements this rank counts, and the number of ranks that hold each one.

    Each element counts once over all ranks. With a single rank the numbers are left out.
    """
    if min_reduce is None:
        return frozenset(range(len(parameters))), []
    own_rank = owning_ranks([p.tensor for p in parameters], ranks_by_id)
    counting_rank, holders = min_reduce(own_rank.clone(), [p.name for p in parameters])
    counted = frozenset(
        index
        for index, p in enumerate(parameters)
        if own_rank[index] == counting_rank[index] and is_primary_replica(p.tensor)
    )
    return counted, holders


def _select_readable(parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Returns the parameters whose elements can be read; one warning names the others."""
    reasons = {p.name: reason for p in parameters if (reason := _unreadable_reason(p.tensor)) is not None}
    if reasons:
        shown = ", ".join(f"{name} ({reason})" for name, reason in list(reasons.items())[:3])
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        logger.warning("parameters left out of all metrics because their elements cannot be read: %s%s", shown, more)
    return tuple(p for p in parameters if p.name not in reasons)


def _unreadable_reason(tensor: Any) -> str | None:
    if tensor.is_meta:
        return "on the meta device: it has no elements"
    if tensor.is_quantized or not (tensor.is_floating_point() or tensor.is_complex()):
        return f"{tensor.dtype}: its elements are packed or quantized"
    if not isinstance(tensor, DTensor) and is_traceable_wrapper_subclass(tensor):
        return f"{type(tensor).__name__}: a tensor that wraps other tensors"
    return None
