"""Defines `TorchSharding`, which reads plain tensors, DTensors (FSDP2, HSDP, tensor parallelism) and FSDP1's shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tbx_callbacks._model.amp import found_inf
from tbx_callbacks._model.sharding import dtensor, fsdp1
from tbx_callbacks._model.sharding.base import ParameterState, StepEvents
from tbx_callbacks._model.sharding.step_hooks import StepHooks


class TorchSharding:
    """Reads a model whose parameters are torch's own, sharded or not, without any collective.

    Args:
        model: the model.
    """

    clips_gradients = frees_gradients = False

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @classmethod
    def detect(cls, model: nn.Module, optimizer: Any) -> TorchSharding:  # noqa: ARG003
        return cls(model)

    @property
    def unsupported_reason(self) -> str | None:
        return dtensor.unreadable(self._model.parameters())

    def shard_ranks(self, parameters: Sequence[Tensor]) -> Mapping[int, Sequence[int]]:
        return fsdp1.shard_ranks(self._model)

    def weights(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        return dtensor.local_all([tensor.detach() for tensor in parameters])

    def gradients(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        return dtensor.local_all([tensor.grad for tensor in parameters])

    def has_gradients(self, parameters: Sequence[Tensor]) -> list[bool]:
        return [tensor.grad is not None for tensor in parameters]

    def optimizer_states(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]
    ) -> list[tuple[ParameterState | None, ParameterState]]:
        groups = {id(tensor): group for group in optimizer.param_groups for tensor in group["params"]}
        states = [optimizer.state.get(tensor) if id(tensor) in groups else None for tensor in parameters]
        if any([isinstance(tensor, DTensor) for tensor in parameters]):
            states = [_local_state(state) for state in states]
        return [(state, groups.get(id(tensor), {})) for state, tensor in zip(states, parameters, strict=True)]

    def skipped(self, optimizer: torch.optim.Optimizer) -> Tensor | None:
        return found_inf(optimizer)

    def hook_steps(self, optimizers: Mapping[str, torch.optim.Optimizer], events: StepEvents) -> list[Any]:
        return [StepHooks(events)]


def _local_state(state: ParameterState | None) -> ParameterState | None:
    """Returns this rank's elements of a parameter's state."""
    if state is None or not any(isinstance(value, DTensor) for value in state.values()):
        return state
    return {name: dtensor.local(value) if isinstance(value, Tensor) else value for name, value in state.items()}
