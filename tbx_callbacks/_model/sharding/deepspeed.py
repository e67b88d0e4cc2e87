"""DeepSpeed ZeRO 1, 2 and 3: this rank's part of each parameter, of its gradient and of what the optimizer keeps.

ZeRO averages gradients over ranks, keeps of each parameter a part on each rank, in float32, and steps on these parts.
All attributes of DeepSpeed that are not public are read here; tested on deepspeed 0.19.8. It is never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_STAGES = ("DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3")


class DeepSpeedSharding:
    """A ZeRO optimizer, read without any collective.

    Args:
        optimizer: DeepSpeed's, around torch's own.
    """

    def __init__(self, optimizer: Any) -> None:
        self._zero = optimizer
        self._stage3 = type(optimizer).__name__.endswith("Stage3")
        self._consumed: dict[int, Tensor] | None = None

    @property
    def unsupported_reason(self) -> str | None:
        """Why its numbers cannot be read, in words, with the remedy; None when they can."""
        if getattr(self._zero, "offload_optimizer" if self._stage3 else "cpu_offload", False):
            return "DeepSpeed ZeRO with an offloaded optimizer (remedy: leave offload_optimizer out of its config)"
        return None

    @property
    def skipped(self) -> Tensor | None:
        """Not 0 when the step did nothing, because gradients overflowed under a loss scale; None without one."""
        return torch.tensor(float(self._zero.overflow)) if self._zero.dtype == torch.float16 else None

    @property
    def loss_scale(self) -> Tensor | None:
        """What gradients are multiplied by at the beginning of the step; None for nothing."""
        scale = float(self._zero.loss_scale)
        return None if scale == 1.0 else torch.tensor(scale)

    @property
    def gradient_norm_and_limit(self) -> tuple[float, float] | None:
        """The gradients' norm at this step, and the limit; None when they are not clipped."""
        norm, limit = self._zero._global_grad_norm, float(self._zero.clip_grad)
        return (float(norm), limit) if limit > 0 and norm is not None else None

    def patch_step(self, before: Callable[[], bool], after: Callable[[], None]) -> StepPatch:
        """Calls `before` when gradients are averaged and not clipped yet, `after` when weights are new.

        `before` says whether gradients are to be kept for `after`, as the optimizer consumed them.
        """
        zero, base, step = self._zero, self._zero.optimizer, self._zero.step

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._consumed = None
            hook = base.register_step_pre_hook(self._keep) if before() else None
            self._consumed = {}
            try:
                result = step(*args, **kwargs)
            finally:
                if hook is not None:
                    hook.remove()
            after()
            self._consumed = None
            return result

        zero.step = watched
        return StepPatch(zero)

    def sharded_over(self, tensors: Sequence[Tensor]) -> dict[int, Sequence[int]]:
        """By the parameter's id, the ranks that hold its parts."""
        groups = {id(t): getattr(t, "ds_process_group" if self._stage3 else "_dp_group", None) for t in tensors}
        return {key: dist.get_process_group_ranks(group) for key, group in groups.items() if group is not None}

    def weight(self, tensor: Any) -> Tensor:
        """This rank's elements of a parameter, in float32 where it is trained."""
        if not tensor.requires_grad:
            return self._frozen(tensor)
        place = self._place(tensor)
        return tensor.detach().new_empty(0) if place is None else _part(*place)

    def gradient(self, tensor: Any) -> Tensor | None:
        """This rank's elements of its gradient: before clipping until the step is done, as it was consumed after."""
        place = self._place(tensor) if tensor.requires_grad else None
        if place is None:
            return tensor.detach().new_empty(0) if tensor.requires_grad else None
        flat, start, numel = place
        if self._consumed is not None:
            consumed = self._consumed.get(id(flat))
            return None if consumed is None else _part(consumed, start, numel)
        if self._stage3:
            found = self._zero.get_local_fp32_grad_for_param(tensor)
        else:
            found = tensor._hp_mapping.get_lp_grad_fragment(tensor._index_in_param_group)
        return _part(found.reshape(-1), 0, numel)

    def optimizer_state(self, tensor: Any) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
        """What the optimizer keeps of this rank's elements, and their group."""
        place = self._place(tensor) if tensor.requires_grad else None
        if place is None:
            return None, {}
        flat, start, numel = place
        base = self._zero.optimizer
        kept = {
            name: _part(value, start, numel) if isinstance(value, Tensor) and value.shape == flat.shape else value
            for name, value in base.state.get(flat, {}).items()
        }
        if self._stage3:
            group = self._zero.sub_group_to_group_id[self._zero.grad_position[self._zero.get_param_id(tensor)][0]]
        else:
            group = tensor._hp_mapping.param_group_index
        return kept or None, base.param_groups[group]

    def _keep(self, optimizer: torch.optim.Optimizer, *args: Any) -> None:
        """Takes hold of gradients that ZeRO frees after each group."""
        assert self._consumed is not None
        for group in optimizer.param_groups:
            self._consumed.update({id(flat): flat.grad for flat in group["params"] if flat.grad is not None})

    def _place(self, tensor: Any) -> tuple[Tensor, int, int] | None:
        """The flat part of this rank that holds the parameter's elements, where they begin, and how many they are."""
        if self.unsupported_reason:
            return None
        if self._stage3:
            group, start, _ = self._zero.grad_position[self._zero.get_param_id(tensor)]
            return self._zero.fp32_partitioned_groups_flat[group], start, _without_padding(tensor)
        mapping = tensor._hp_mapping
        if mapping is None:
            return None
        address = mapping.hp_fragment_address
        return self._zero.single_partition_of_fp32_groups[mapping.param_group_index], address.start, address.numel

    def _frozen(self, tensor: Any) -> Tensor:
        if self._stage3 and not self.unsupported_reason:
            return _part(tensor.ds_tensor, 0, _without_padding(tensor))
        whole: Tensor = tensor.detach()
        return whole


class StepPatch:
    """Ends a watch, as the handles of torch's hooks do."""

    def __init__(self, zero: Any) -> None:
        self._zero = zero

    def remove(self) -> None:
        """The optimizer's step is its class's own again."""
        self._zero.__dict__.pop("step", None)


def find_deepspeed(optimizer: Any) -> DeepSpeedSharding | None:
    """The ZeRO optimizer inside a trainer's wrappers; None when there is none."""
    while optimizer is not None:
        if type(optimizer).__name__ in _STAGES:
            return DeepSpeedSharding(optimizer)
        optimizer = getattr(optimizer, "optimizer", None)
    return None


def _part(flat: Tensor, start: int, numel: int) -> Tensor:
    return flat.detach().narrow(0, start, numel)


def _without_padding(tensor: Any) -> int:
    """Elements of a ZeRO-3 parameter on this rank: parts are of one size, and the last ones are filled up."""
    size = int(tensor.partition_numel())
    rank = dist.get_rank(tensor.ds_process_group)
    return max(0, min(size, int(tensor.ds_numel) - rank * size))
