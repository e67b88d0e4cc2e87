"""Reads an optimizer's state of each parameter, under torch's names, and the norm of the resulting step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import torch
from torch import Tensor

from tbx_callbacks import tags
from tbx_callbacks._model.sharding.base import ParameterState, Sharding
from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks._model.update_norms import state_tensor, update_norm_of

logger = logging.getLogger(__name__)


class OptimizerStateView:
    """The state of one optimizer right after its step, in the order of the model's parameters; read on first access.

    Args:
        optimizer: the optimizer.
        tensors: all parameters of the model.
        warned: missing state that a warning already named; each is reported once.
        local_indices: indices of the parameters whose elements this rank counts.
        sharding: reads the state.
        is_sharded: whether this rank holds shards of tensors.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        tensors: Sequence[Tensor],
        warned: set[str],
        local_indices: Collection[int],
        *,
        sharding: Sharding,
        is_sharded: bool,
    ) -> None:
        # torch's ZeroRedundancyOptimizer keeps the state of each parameter on one rank.
        self._is_zero_redundancy = type(optimizer).__name__ == "ZeroRedundancyOptimizer"
        self._optimizer = getattr(optimizer, "optim") if self._is_zero_redundancy else optimizer  # noqa: B009 - most lack it
        self._tensors, self._warned, self._local_indices = tensors, warned, local_indices
        self._sharding, self._is_sharded = sharding, is_sharded

    @cached_property
    def _states_and_groups(self) -> list[tuple[ParameterState | None, ParameterState]]:
        entries = self._sharding.optimizer_states(self._optimizer, self._tensors)
        if self._is_zero_redundancy or self._sharding.frees_gradients:
            return entries  # a rank's optimizer only holds the state that this rank counts
        return [
            (state if index in self._local_indices else None, group) for index, (state, group) in enumerate(entries)
        ]

    @cached_property
    def _weights(self) -> list[Tensor | None]:
        return self._sharding.weights(self._tensors)

    @cached_property
    def numels(self) -> tuple[int, ...]:
        """Number of this rank's elements of each parameter; 0 for unreadable ones."""
        return tuple(0 if part is None else part.numel() for part in self._weights)

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
        pairs = zip(self._weights, self._tensors, strict=True)
        unsharded = not self._is_sharded and all(weight is None or weight.shape == t.shape for weight, t in pairs)
        step = update_norm_of(self._optimizer, unsharded=unsharded)
        if step is None:
            self._warn_missing("known formula for the optimizer's step", "optimizer_state/effective_lr")
            return None
        inputs = zip(self._states_and_groups, self._weights, self._sharding.gradients(self._tensors), strict=True)
        return Tensors([step(k, g, w, grad) if k and w is not None else None for (k, g), w, grad in inputs])

    def _read_all(self, read: Callable[[ParameterState, ParameterState], Tensor | None]) -> Tensors:
        return Tensors([read(state, group) if state else None for state, group in self._states_and_groups])

    def _warn_missing(self, missing: str, tags: str) -> None:
        states = [state for state, _ in self._states_and_groups if state]
        keys = sorted({key for state in states for key, value in state.items() if value is not None})
        stepped = any(self._tensors[index].grad is not None for index in self._local_indices)
        if stepped and missing not in self._warned:
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
