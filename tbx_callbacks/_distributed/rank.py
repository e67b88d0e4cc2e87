"""Reads the rank of this process, before and after the process group exists."""

from __future__ import annotations

import os

import torch.distributed as dist

# torchrun, accelerate launch and deepspeed; Open MPI; MPICH; srun (last, because it may start one of the others).
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")


def is_rank_zero() -> bool:
    """Whether this is global rank 0, from the process group or, before it exists, from the launcher's variables."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    launched_rank = next((os.environ[name] for name in _RANKS if os.environ.get(name)), None)
    if launched_rank is not None:
        return int(launched_rank) == 0
    # Lightning's own launcher sets a node rank and a local rank.
    return all(int(os.environ.get(name) or 0) == 0 for name in ("NODE_RANK", "LOCAL_RANK"))


def world_size() -> int:
    """Returns the number of processes that train together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE") or "1")


def in_group() -> bool:
    """Whether the process group exists and has several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
