"""Reads this rank's shards of parameters, gradients and optimizer state with DeepSpeed ZeRO 1, 2 and 3.

ZeRO averages gradients over ranks, keeps a float32 shard of each parameter on each rank, and updates these shards. This
is the only module that reads private attributes of DeepSpeed; tested on deepspeed 0.19.8. It never imports DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tbx_callbacks._model.sharding.base import ParameterState, StepEvents

_STAGES = ("DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3")


class DeepSpeedSharding:
    """Reads a ZeRO optimizer without any collective.

    Args:
        optimizer: DeepSpeed's optimizer, which wraps one of torch.
    """

    clips_gradients = frees_gradients = True

    def __init__(self, optimizer: Any) -> None:
        self._zero = optimizer
        self._stage3 = type(optimizer).__name__.endswith("Stage3")
        self._consumed: dict[int, Tensor] | None = None

    @classmethod
    def detect(cls, model: nn.Module, optimizer: Any) -> DeepSpeedSharding | None:  # noqa: ARG003
        while optimizer is not None:
            if type(optimizer).__name__ in _STAGES:
                return cls(optimizer)
            optimizer = getattr(optimizer, "optimizer", None)
        return None

    @property
    def unsupported_reason(self) -> str | None:
        """Reason why the shards cannot be read, with the remedy; None when they can."""
        if getattr(self._zero, "offload_optimizer" if self._stage3 else "cpu_offload", False):
            return "DeepSpeed ZeRO with an offloaded optimizer (remedy: remove offload_optimizer from its config)"
        return None

    def skipped(self, optimizer: torch.optim.Optimizer) -> Tensor | None:
        return torch.tensor(float(self._zero.overflow)) if self._zero.dtype == torch.float16 else None

    @property
    def loss_scale(self) -> Tensor | None:
        """Loss scale that gradients contain at the start of the step; None when it is 1."""
        scale = float(self._zero.loss_scale)
        return None if scale == 1.0 else torch.tensor(scale)

    @property
    def gradient_norm_and_limit(self) -> tuple[float, float] | None:
        """Gradient norm of this step and clipping limit; None without clipping."""
        norm, limit = self._zero._global_grad_norm, float(self._zero.clip_grad)
        return (float(norm), limit) if limit > 0 and norm is not None else None

    def hook_steps(self, optimizers: Mapping[str, torch.optim.Optimizer], events: StepEvents) -> list[Any]:
        """Replaces the optimizer's `step`. Hooks of torch do not fit: DeepSpeed calls its optimizer once per group."""
        zero, base, step = self._zero, self._zero.optimizer, self._zero.step
        name = next(iter(optimizers))

        def patched_step(*args: Any, **kwargs: Any) -> Any:
            self._consumed = None
            events.before_clip(self.loss_scale, name, None)  # gradients are averaged, and not clipped yet
            if events.due or events.awaits_first_step:
                events.before_step(name, None)
            hook = base.register_step_pre_hook(self._keep) if events.due else None
            self._consumed = {}
            try:
                result = step(*args, **kwargs)
            finally:
                if hook is not None:
                    hook.remove()
            if (norm_and_limit := self.gradient_norm_and_limit) is not None:
                events.record_clipping(*norm_and_limit)
            events.after_step(name, optimizers[name])
            self._consumed = None
            return result

        zero.step = patched_step
        return [StepPatch(zero)]

    def shard_ranks(self, parameters: Sequence[Tensor]) -> Mapping[int, Sequence[int]]:
        groups = {id(t): getattr(t, "ds_process_group" if self._stage3 else "_dp_group", None) for t in parameters}
        return {key: dist.get_process_group_ranks(group) for key, group in groups.items() if group is not None}

    def weights(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        return [self.weight(tensor) for tensor in parameters]

    def gradients(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        return [self.gradient(tensor) for tensor in parameters]

    def has_gradients(self, parameters: Sequence[Tensor]) -> list[bool]:
        return [self.gradient(tensor) is not None for tensor in parameters]

    def optimizer_states(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[Tensor],
    ) -> list[tuple[ParameterState | None, ParameterState]]:
        return [self.optimizer_state(tensor) for tensor in parameters]

    def weight(self, tensor: Any) -> Tensor:
        """Returns this rank's elements of a parameter, in float32 if it is trained."""
        if not tensor.requires_grad:
            return self._frozen_weight(tensor)
        location = self._location(tensor)
        return tensor.detach().new_empty(0) if location is None else _slice(*location)

    def gradient(self, tensor: Any) -> Tensor | None:
        """Returns this rank's elements of a gradient: unclipped before the update, as consumed after it."""
        location = self._location(tensor) if tensor.requires_grad else None
        if location is None:
            return tensor.detach().new_empty(0) if tensor.requires_grad else None
        flat, start, numel = location
        if self._consumed is not None:
            consumed = self._consumed.get(id(flat))
            return None if consumed is None else _slice(consumed, start, numel)
        if self._stage3:
            fragment = self._zero.get_local_fp32_grad_for_param(tensor)
        else:
            fragment = tensor._hp_mapping.get_lp_grad_fragment(tensor._index_in_param_group)
        return _slice(fragment.reshape(-1), 0, numel)

    def optimizer_state(self, tensor: Any) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
        """Returns the optimizer state of this rank's elements, and their parameter group."""
        location = self._location(tensor) if tensor.requires_grad else None
        if location is None:
            return None, {}
        flat, start, numel = location
        base = self._zero.optimizer
        local_state = {
            name: _slice(value, start, numel) if isinstance(value, Tensor) and value.shape == flat.shape else value
            for name, value in base.state.get(flat, {}).items()
        }
        if self._stage3:
            group = self._zero.sub_group_to_group_id[self._zero.grad_position[self._zero.get_param_id(tensor)][0]]
        else:
            group = tensor._hp_mapping.param_group_index
        return local_state or None, base.param_groups[group]

    def _keep(self, optimizer: torch.optim.Optimizer, *args: Any) -> None:
        """Keeps references to gradients that ZeRO frees after each group."""
        assert self._consumed is not None
        for group in optimizer.param_groups:
            self._consumed.update({id(flat): flat.grad for flat in group["params"] if flat.grad is not None})

    def _location(self, tensor: Any) -> tuple[Tensor, int, int] | None:
        """Returns this rank's flat buffer with the parameter's elements, their start and their number."""
        if self.unsupported_reason:
            return None
        if self._stage3:
            group, start, _ = self._zero.grad_position[self._zero.get_param_id(tensor)]
            return self._zero.fp32_partitioned_groups_flat[group], start, _unpadded_numel(tensor)
        mapping = tensor._hp_mapping
        if mapping is None:
            return None
        address = mapping.hp_fragment_address
        return self._zero.single_partition_of_fp32_groups[mapping.param_group_index], address.start, address.numel

    def _frozen_weight(self, tensor: Any) -> Tensor:
        if self._stage3 and not self.unsupported_reason:
            return _slice(tensor.ds_tensor, 0, _unpadded_numel(tensor))
        full: Tensor = tensor.detach()
        return full


class StepPatch:
    """Handle that undoes the replacement of `step`, like the handles of torch hooks."""

    def __init__(self, zero: Any) -> None:
        self._zero = zero

    def remove(self) -> None:
        """Restores the step method of the optimizer's class."""
        self._zero.__dict__.pop("step", None)


def _slice(flat: Tensor, start: int, numel: int) -> Tensor:
    return flat.detach().narrow(0, start, numel)


def _unpadded_numel(tensor: Any) -> int:
    """Returns the number of a ZeRO-3 parameter's elements on this rank, without the padding of the last shards."""
    size = int(tensor.partition_numel())
    rank = dist.get_rank(tensor.ds_process_group)
    return max(0, min(size, int(tensor.ds_numel) - rank * size))
