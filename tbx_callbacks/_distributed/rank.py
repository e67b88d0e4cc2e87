"""Which process writes."""

from __future__ import annotations

import os

import torch.distributed as dist

# torchrun, accelerate launch and deepspeed; Open MPI; MPICH; srun (which may have started one of the others).
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")


def is_rank_zero() -> bool:
    """Whether this is the global rank 0: of the process group, or, before there is one, of the launcher's variables."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    told = next((os.environ[name] for name in _RANKS if os.environ.get(name)), None)
    if told is not None:
        return int(told) == 0
    # Lightning's own launcher: a node, and a place on it.
    return all(int(os.environ.get(name) or 0) == 0 for name in ("NODE_RANK", "LOCAL_RANK"))


def world_size() -> int:
    """Number of processes that train together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE") or "1")


def in_group() -> bool:
    """Whether there are several processes that can talk to each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
