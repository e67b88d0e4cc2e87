"""Reads the rank of this process, before and after the process group exists."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist

# torchrun, accelerate launch and deepspeed; Open MPI; MPICH; srun (last, because it may start one of the others).
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
# Lightning's own launcher sets a node rank and a local rank.
_LIGHTNING_RANKS = ("NODE_RANK", "LOCAL_RANK")
_IS_AVAILABLE = dist.is_available()


def has_group() -> bool:
    """Whether the process group exists."""
    return _IS_AVAILABLE and dist.GroupMember.WORLD is not None  # as `dist.is_initialized`, in fewer calls


def is_rank_zero(process_group: Any = None) -> bool:
    """Whether this is rank 0, from the process group or, before it exists, from the launcher's variables.

    Args:
        process_group: the ranks that train; all ranks if None.
    """
    if has_group():
        return dist.get_rank(process_group) == 0
    return rank_variable() is None


def rank_variable() -> str | None:
    """Returns the launcher's variable that says that this process is not rank 0, as `NAME=value`; None without one."""
    name = next((name for name in _RANKS if os.environ.get(name)), None)
    names = _LIGHTNING_RANKS if name is None else (name,)
    return next((f"{name}={value}" for name in names if (value := os.environ.get(name)) and value.strip() != "0"), None)


def size_variable() -> str | None:
    """Returns the launcher's variable that says that several processes train, as `WORLD_SIZE=value`; None if none does.

    It may be left over from a launcher, or belong to a process group that comes later.
    """
    size = os.environ.get("WORLD_SIZE", "").strip()
    return f"WORLD_SIZE={size}" if size.isdigit() and int(size) > 1 else None


def check_group(process_group: Any) -> None:
    """Raises TypeError unless this is a process group, or None."""
    if process_group is None or not dist.is_available():
        return
    if not isinstance(process_group, dist.ProcessGroup) and process_group != dist.GroupMember.NON_GROUP_MEMBER:
        raise TypeError(
            "process_group must be a group of torch.distributed, got"
            f" {type(process_group).__name__}; pass the result of new_group, or of get_group of a mesh"
        )


def world_size(process_group: Any = None) -> int:
    """Returns the number of ranks in the process group; 1 without one, whatever a launcher's variables say."""
    return max(1, dist.get_world_size(process_group)) if has_group() else 1


def in_group(process_group: Any = None) -> bool:
    """Whether the process group exists, has several ranks, and this process is one of them."""
    return has_group() and dist.get_rank(process_group) >= 0 and dist.get_world_size(process_group) > 1
