"""Finds the ranks that hold the shards of a parameter with FSDP1 (`torch.distributed.fsdp.FullyShardedDataParallel`).

With `use_orig_params=True`, outside of forward and backward, a parameter is a view of this rank's shard of the flat
parameter. The view has only the parameter's own elements. Reads private attributes; tested on torch 2.4 to 2.13.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy


def shard_ranks(model: nn.Module) -> dict[int, list[int]]:
    """Returns the global ranks that together hold one copy of each parameter, by the parameter's id.

    With HYBRID_SHARD other ranks hold further copies of the shards. With NO_SHARD every rank holds the full parameter.
    """
    ranks_by_id: dict[int, list[int]] = {}
    for module in model.modules():
        if isinstance(module, FullyShardedDataParallel) and (handle := module._handle) is not None:
            unsharded = module.sharding_strategy == ShardingStrategy.NO_SHARD
            ranks = [dist.get_rank()] if unsharded else dist.get_process_group_ranks(module.process_group)
            ranks_by_id.update({id(p): ranks for p in handle.flat_param._params or ()})
    return ranks_by_id
