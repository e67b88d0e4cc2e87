"""Reads DTensors: FSDP2, HSDP and tensor parallelism."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate


def sharding(tensors: Iterable[Tensor]) -> str | None:
    """How any of the tensors is spread over ranks in a way that cannot be read, in words; None when all can be."""
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
    """Whether a tensor is in pieces on several ranks; `sharded_over` are those of `owning_ranks`."""
    return len(sharded_over) > 1 or (
        isinstance(tensor, DTensor) and any(not isinstance(placement, Replicate) for placement in tensor.placements)
    )


def owning_ranks(tensors: Sequence[Tensor], sharded_over: Mapping[int, Sequence[int]]) -> Tensor:
    """For each tensor the lowest rank that holds this copy of it, `[tensors]` int64: of its mesh, or this rank.

    Args:
        tensors: the tensors.
        holders: ranks that together hold the one copy of a tensor that is no DTensor, by its id.
    """
    here = dist.get_rank()
    lowest = [
        int(t.device_mesh.mesh.min()) if isinstance(t, DTensor) else min(sharded_over.get(id(t), (here,)))
        for t in tensors
    ]
    return torch.tensor(lowest, dtype=torch.int64)


def is_primary_replica(tensor: Tensor) -> bool:
    """Whether this rank's elements are counted: of replicas within a mesh, only the first is."""
    if not isinstance(tensor, DTensor):
        return True
    where = tensor.device_mesh.get_coordinate()
    if where is None:
        return False
    return not any(
        isinstance(placement, Replicate) and place for placement, place in zip(tensor.placements, where, strict=True)
    )


def is_partial_sum(tensor: Tensor | None) -> bool:
    """Whether elements are sums over ranks that are not added up yet."""
    return isinstance(tensor, DTensor) and any(isinstance(placement, Partial) for placement in tensor.placements)


def local(tensor: Tensor) -> Tensor | None:
    """This rank's elements; None where they are partial sums, which would need the other ranks'."""
    if is_partial_sum(tensor):
        return None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def tensor_parallel_layer(model: nn.Module) -> str | None:
    """The name of a parameter that tensor parallelism splits; None when all are whole, or spread by FSDP2 alone.

    The attributes of FSDP2 that say it are private; tested on torch 2.13.
    """
    by_data = {id(part.sharded_param) for part in _fsdp_parameters(model) if not part.is_dtensor}
    return next((n for n, p in model.named_parameters() if isinstance(p, DTensor) and id(p) not in by_data), None)


def _fsdp_parameters(model: nn.Module) -> list[Any]:
    found = []
    for module in model.modules():
        of_fsdp: Any = getattr(module, "_get_fsdp_state", None)
        state = of_fsdp() if of_fsdp is not None else None
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        found += [part for group in groups if group is not None for part in group.fsdp_params]
    return found
