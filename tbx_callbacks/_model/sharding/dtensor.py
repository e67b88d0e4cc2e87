"""Reads DTensors, for FSDP2, HSDP and tensor parallelism."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate

_PLAIN = frozenset({Tensor, nn.Parameter, type(None)})


def unreadable(tensors: Iterable[Tensor]) -> str | None:
    """Returns the sharding of the first tensor whose elements cannot be read, with a remedy; None without one."""
    for tensor in tensors:
        kind = type(tensor)
        if is_partial_sum(tensor):
            return "DTensor with partial sums"
        if kind.__name__ == "FlatParameter" or hasattr(tensor, "_is_flat_param"):
            return "FSDP with flat parameters (remedy: FullyShardedDataParallel(..., use_orig_params=True))"
        if hasattr(tensor, "ds_id"):
            return "DeepSpeed ZeRO-3"
    return None


def is_sharded(tensor: Tensor, sharded_over: Sequence[int]) -> bool:
    """Whether a tensor is sharded over several ranks; `sharded_over` lists the ranks of a plain tensor's shards."""
    return len(sharded_over) > 1 or (
        isinstance(tensor, DTensor) and any(not isinstance(placement, Replicate) for placement in tensor.placements)
    )


def owning_ranks(tensors: Sequence[Tensor], sharded_over: Mapping[int, Sequence[int]]) -> Tensor:
    """Returns, for each tensor, the lowest rank that holds this copy of it, `[tensors]` int64.

    For a DTensor this is the lowest rank of its mesh, for a plain tensor this rank.

    Args:
        tensors: the tensors.
        sharded_over: ranks that hold the shards of a plain tensor, by its id; for them the lowest of these counts.
    """
    own_rank = dist.get_rank()
    lowest = [
        int(t.device_mesh.mesh.min()) if isinstance(t, DTensor) else min(sharded_over.get(id(t), (own_rank,)))
        for t in tensors
    ]
    return torch.tensor(lowest, dtype=torch.int64)


def is_primary_replica(tensor: Tensor) -> bool:
    """Whether this rank counts its elements: of the replicas within a mesh, only the first does."""
    if not isinstance(tensor, DTensor):
        return True
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return False
    return not any(
        isinstance(placement, Replicate) and position
        for placement, position in zip(tensor.placements, coordinate, strict=True)
    )


def is_partial_sum(tensor: Tensor | None) -> bool:
    """Whether the elements are partial sums that still have to be added over ranks."""
    return isinstance(tensor, DTensor) and any(isinstance(placement, Partial) for placement in tensor.placements)


def partial_sums_in(tensors: Mapping[int, Tensor | None]) -> list[int]:
    """Returns the keys of the tensors that are partial sums. Plain tensors take no call of their own."""
    return [key for key, tensor in tensors.items() if type(tensor) not in _PLAIN and is_partial_sum(tensor)]


def local(tensor: Tensor) -> Tensor | None:
    """Returns this rank's elements; None for partial sums, which need the elements of other ranks."""
    if is_partial_sum(tensor):
        return None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_all(tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Returns `local(tensor)` of each tensor; None where there is none. Plain tensors take no call of their own."""
    return [tensor if type(tensor) in _PLAIN else local(tensor) for tensor in tensors]  # type: ignore[arg-type]


def tensor_parallel_layer(model: nn.Module) -> str | None:
    """Returns the name of a parameter that tensor parallelism splits; None if only FSDP2 shards parameters.

    Reads private attributes of FSDP2; tested on torch 2.13.
    """
    fsdp_ids = {id(part.sharded_param) for part in _fsdp_parameters(model) if not part.is_dtensor}
    return next((n for n, p in model.named_parameters() if isinstance(p, DTensor) and id(p) not in fsdp_ids), None)


def _fsdp_parameters(model: nn.Module) -> list[Any]:
    parameters = []
    for module in model.modules():
        get_state: Any = getattr(module, "_get_fsdp_state", None)
        state = get_state() if get_state is not None else None
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        parameters += [part for group in groups if group is not None for part in group.fsdp_params]
    return parameters
