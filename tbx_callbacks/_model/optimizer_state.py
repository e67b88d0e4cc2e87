"""Reads an optimizer's state of each parameter, under torch's names, and the norm of the resulting step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tbx_callbacks import tags
from tbx_callbacks._model.parameters import Parameter
from tbx_callbacks._model.sharding.deepspeed import DeepSpeedSharding
from tbx_callbacks._model.sharding.dtensor import local
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._model.update_norms import ParameterState, state_tensor, update_norm_of

logger = logging.getLogger(__name__)


class OptimizerStateView:
    """The state of one optimizer right after its step, in the order of the model's parameters.

    Args:
        optimizer: the optimizer.
        parameters: all parameters of the model.
        warned: missing state that a warning already named; each is reported once.
        local_indices: indices of the parameters whose elements this rank counts.
        deepspeed: reads the state, for DeepSpeed ZeRO.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[Parameter],
        warned: set[str],
        local_indices: Collection[int],
        deepspeed: DeepSpeedSharding | None = None,
    ) -> None:
        # torch's ZeroRedundancyOptimizer keeps the state of each parameter on one rank.
        is_zero_redundancy = type(optimizer).__name__ == "ZeroRedundancyOptimizer"
        optimizer = getattr(optimizer, "optim") if is_zero_redundancy else optimizer  # noqa: B009 - most optimizers lack it
        self._optimizer, self._warned = optimizer, warned
        self._stepped = any(parameters[index].tensor.grad is not None for index in local_indices)
        groups = {id(tensor): group for group in optimizer.param_groups for tensor in group["params"]}
        tensors = [parameter.tensor for parameter in parameters]
        self._states: list[ParameterState | None] = [
            _local_state(optimizer.state.get(tensor))
            if id(tensor) in groups and (is_zero_redundancy or index in local_indices)
            else None
            for index, tensor in enumerate(tensors)
        ]
        self._groups: list[ParameterState] = [groups.get(id(tensor), {}) for tensor in tensors]
        if deepspeed is not None:
            sharded_states = [deepspeed.optimizer_state(tensor) for tensor in tensors]
            self._states, self._groups = [state for state, _ in sharded_states], [group for _, group in sharded_states]
        self._weights = [local(tensor) if deepspeed is None else deepspeed.weight(tensor) for tensor in tensors]
        self._gradients = [None if tensor.grad is None else local(tensor.grad) for tensor in tensors]
        self._is_unsharded = deepspeed is None and not any(isinstance(tensor, DTensor) for tensor in tensors)
        self.numels = tuple(0 if part is None else part.numel() for part in self._weights)

    @cached_property
    def moments(self) -> dict[str, Tensors]:
        """Moments by name: Adam's first and second (`exp_avg`, `exp_avg_sq`), or SGD's `momentum_buffer`.

        Adafactor stores its second moment as means of rows and columns; it is returned as a vector of the same norm.
        """
        all_moments = {name: self._read_all(read) for name, read in _MOMENTS.items()}
        present_moments = {name: tensors for name, tensors in all_moments.items() if any(tensors.present)}
        if not present_moments:
            self._warn_missing("exp_avg, exp_avg_sq or momentum_buffer", f"{tags.OPTIMIZER_STATE}/")
        return present_moments

    @cached_property
    def update_norms(self) -> Tensors | None:
        """Norm of each parameter's step without decoupled weight decay, 0-d; None if it cannot be computed."""
        step = update_norm_of(self._optimizer, unsharded=self._is_unsharded)
        if step is None:
            self._warn_missing("known formula for the optimizer's step", "optimizer_state/effective_lr")
            return None
        inputs = zip(self._states, self._groups, self._weights, self._gradients, strict=True)
        return Tensors([step(k, g, w, grad) if k and w is not None else None for k, g, w, grad in inputs])

    def _read_all(self, read: Callable[[ParameterState, ParameterState], Tensor | None]) -> Tensors:
        return Tensors(
            [read(state, group) if state else None for state, group in zip(self._states, self._groups, strict=True)]
        )

    def _warn_missing(self, missing: str, tags: str) -> None:
        keys = sorted({key for state in self._states if state for key, value in state.items() if value is not None})
        if self._stepped and missing not in self._warned:
            self._warned.add(missing)
            logger.warning(
                "no %s, so %s is not written: %s keeps %s",
                missing,
                tags,
                type(self._optimizer).__name__,
                ", ".join(keys) or "nothing",
            )


def _second_moment(state: ParameterState, group: ParameterState) -> Tensor | None:
    if "row_var" in state:  # torch.optim.Adafactor
        if state["row_var"] is None:
            return state_tensor(state, "variance")
        return _factored_norm(state["row_var"].squeeze(-1), state["col_var"].squeeze(-2), group["eps"][0])
    if "variance" in state:
        return state_tensor(state, "variance")
    if "exp_avg_sq_row" in state:  # transformers.Adafactor
        return _factored_norm(state["exp_avg_sq_row"], state["exp_avg_sq_col"], 0.0)
    return state_tensor(state, "exp_avg_sq")


def _factored_norm(row: Tensor, column: Tensor, floor: float | None) -> Tensor:
    """Returns a `[..., rows]` tensor with the norm of the matrices `row[:, None] * column[None, :] / mean(row)`."""
    floor = torch.finfo(row.dtype).eps if floor is None else floor
    norm: Tensor = column.norm(dim=-1, keepdim=True)
    return row * (norm / row.mean(dim=-1, keepdim=True).clamp(min=floor))


_MOMENTS: dict[str, Callable[[ParameterState, ParameterState], Tensor | None]] = {
    "exp_avg": lambda state, group: state_tensor(state, "exp_avg"),  # noqa: ARG005
    "exp_avg_sq": _second_moment,
    "momentum_buffer": lambda state, group: state_tensor(state, "momentum_buffer"),  # noqa: ARG005
}


def _local_state(state: ParameterState | None) -> ParameterState | None:
    """Returns this rank's elements of a parameter's state."""
    if state is None or not any(isinstance(value, DTensor) for value in state.values()):
        return state
    return {name: local(value) if isinstance(value, Tensor) else value for name, value in state.items()}
