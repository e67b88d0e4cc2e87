"""What an optimizer remembers of each parameter, under torch's names, and the step that it makes of it."""

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
    """The state of one optimizer just after its step, in the order of the model's parameters.

    Args:
        optimizer: the optimizer.
        parameters: all parameters of the model.
        said: what was warned of before; what an optimizer does not keep is said once.
        mine: places of the parameters for whose elements this rank speaks.
        zero: has the state, under DeepSpeed ZeRO.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[Parameter],
        said: set[str],
        mine: Collection[int],
        deepspeed: DeepSpeedSharding | None = None,
    ) -> None:
        shares = type(optimizer).__name__ == "ZeroRedundancyOptimizer"  # torch's: each parameter's state is on one rank
        optimizer = getattr(optimizer, "optim") if shares else optimizer  # noqa: B009 - it is no attribute of all
        self._optimizer, self._said = optimizer, said
        self._stepped = any(parameters[index].tensor.grad is not None for index in mine)
        groups = {id(tensor): group for group in optimizer.param_groups for tensor in group["params"]}
        tensors = [parameter.tensor for parameter in parameters]
        self._kept: list[ParameterState | None] = [
            _here(optimizer.state.get(tensor)) if id(tensor) in groups and (shares or index in mine) else None
            for index, tensor in enumerate(tensors)
        ]
        self._groups: list[ParameterState] = [groups.get(id(tensor), {}) for tensor in tensors]
        if deepspeed is not None:
            found = [deepspeed.optimizer_state(tensor) for tensor in tensors]
            self._kept, self._groups = [kept for kept, _ in found], [group for _, group in found]
        self._weights = [local(tensor) if deepspeed is None else deepspeed.weight(tensor) for tensor in tensors]
        self._gradients = [None if tensor.grad is None else local(tensor.grad) for tensor in tensors]
        self._whole = deepspeed is None and not any(isinstance(tensor, DTensor) for tensor in tensors)
        self.numels = tuple(0 if part is None else part.numel() for part in self._weights)

    @cached_property
    def moments(self) -> dict[str, Tensors]:
        """By name: `exp_avg` and `exp_avg_sq`, Adam's first and second moment, or SGD's `momentum_buffer`.

        Of Adafactor's second moment, which is kept as its rows' and columns' means, a vector of the same norm.
        """
        found = {name: self._each(read) for name, read in _MOMENTS.items()}
        known = {name: tensors for name, tensors in found.items() if any(tensors.present)}
        if not known:
            self._say("exp_avg, exp_avg_sq or momentum_buffer", f"{tags.OPTIMIZER_STATE}/")
        return known

    @cached_property
    def update_norms(self) -> Tensors | None:
        """The norm of each parameter's step, without decoupled weight decay, 0-d; None if it cannot be known."""
        step = update_norm_of(self._optimizer, whole=self._whole)
        if step is None:
            self._say("all that its step is made of", "optimizer_state/effective_lr")
            return None
        every = zip(self._kept, self._groups, self._weights, self._gradients, strict=True)
        return Tensors([step(k, g, w, grad) if k and w is not None else None for k, g, w, grad in every])

    def _each(self, read: Callable[[ParameterState, ParameterState], Tensor | None]) -> Tensors:
        return Tensors(
            [read(kept, group) if kept else None for kept, group in zip(self._kept, self._groups, strict=True)]
        )

    def _say(self, what: str, tags: str) -> None:
        keys = sorted({key for kept in self._kept if kept for key, value in kept.items() if value is not None})
        if self._stepped and what not in self._said:
            self._said.add(what)
            logger.warning(
                "an optimizer must keep %s for %s to be written, but %s keeps %s; these tags are left out",
                what,
                tags,
                type(self._optimizer).__name__,
                ", ".join(keys) or "nothing",
            )


def _second_moment(kept: ParameterState, group: ParameterState) -> Tensor | None:
    if "row_var" in kept:  # torch.optim.Adafactor
        if kept["row_var"] is None:
            return state_tensor(kept, "variance")
        return _norm_alike(kept["row_var"].squeeze(-1), kept["col_var"].squeeze(-2), group["eps"][0])
    if "variance" in kept:
        return state_tensor(kept, "variance")
    if "exp_avg_sq_row" in kept:  # transformers.Adafactor
        return _norm_alike(kept["exp_avg_sq_row"], kept["exp_avg_sq_col"], 0.0)
    return state_tensor(kept, "exp_avg_sq")


def _norm_alike(row: Tensor, column: Tensor, least: float | None) -> Tensor:
    """`[..., rows]`, whose norm is that of the matrices `row[:, None] * column[None, :] / mean(row)`."""
    least = torch.finfo(row.dtype).eps if least is None else least
    norm: Tensor = column.norm(dim=-1, keepdim=True)
    return row * (norm / row.mean(dim=-1, keepdim=True).clamp(min=least))


_MOMENTS: dict[str, Callable[[ParameterState, ParameterState], Tensor | None]] = {
    "exp_avg": lambda kept, group: state_tensor(kept, "exp_avg"),  # noqa: ARG005
    "exp_avg_sq": _second_moment,
    "momentum_buffer": lambda kept, group: state_tensor(kept, "momentum_buffer"),  # noqa: ARG005
}


def _here(kept: ParameterState | None) -> ParameterState | None:
    """This rank's elements of what is kept of a parameter."""
    if kept is None or not any(isinstance(value, DTensor) for value in kept.values()):
        return kept
    return {name: local(value) if isinstance(value, Tensor) else value for name, value in kept.items()}
