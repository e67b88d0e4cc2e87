"""Which process writes."""

from __future__ import annotations

import os

import torch.distributed as dist


def is_rank_zero() -> bool:
    """Whether this is the global rank 0: of the process group, or, before there is one, of the launcher's variables."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


def world_size() -> int:
    """Number of processes that train together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def in_group() -> bool:
    """Whether there are several processes that can talk to each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
