"""FSDP1 (`torch.distributed.fsdp.FullyShardedDataParallel`): which ranks hold the pieces of a parameter.

With `use_orig_params=True` a parameter is, outside of forward and backward, a view of this rank's part of the flat
parameter: its own elements, none of its neighbours'. The attributes read here are private; tested on torch 2.4 to 2.13.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy


def sharded_over(model: nn.Module) -> dict[int, list[int]]:
    """By the parameter's id, the global ranks that hold one copy of it together, in pieces.

    Under HYBRID_SHARD other ranks hold the same pieces again; under NO_SHARD every rank holds all of it.
    """
    found: dict[int, list[int]] = {}
    for module in model.modules():
        if isinstance(module, FullyShardedDataParallel) and (handle := module._handle) is not None:
            whole = module.sharding_strategy == ShardingStrategy.NO_SHARD
            ranks = [dist.get_rank()] if whole else dist.get_process_group_ranks(module.process_group)
            found.update({id(p): ranks for p in handle.flat_param._params or ()})
    return found
