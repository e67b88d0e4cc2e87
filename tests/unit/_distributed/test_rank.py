"""Tests the rank of this process before there is a process group, from the variables of each launcher."""

from __future__ import annotations

import os

import pytest

from tbx_callbacks._distributed.rank import is_rank_zero, world_size


@pytest.mark.parametrize(
    ("environment", "zero", "size"),
    [
        ({}, True, 1),
        # torchrun, accelerate launch, deepspeed
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}, True, 8),
        ({"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8"}, False, 8),
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1", "WORLD_SIZE": "16"}, False, 16),
        # Lightning: the children know their node and their rank on it
        ({"NODE_RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}, True, 8),
        ({"NODE_RANK": "0", "LOCAL_RANK": "2", "WORLD_SIZE": "8"}, False, 8),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "16"}, False, 16),
        # srun; torchrun started by srun, where torchrun's ranks count
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}, True, 1),
        ({"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}, False, 1),
        ({"SLURM_PROCID": "1", "RANK": "8", "WORLD_SIZE": "16"}, False, 16),
        ({"SLURM_PROCID": "0", "RANK": "1", "WORLD_SIZE": "8"}, False, 8),
        # mpirun
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, False, 1),
        ({"PMI_RANK": "0"}, True, 1),
        ({"RANK": ""}, True, 1),
    ],
)
def test_rank_from_launcher_variables_before_process_group(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], zero: bool, size: int
) -> None:
    for name in list(os.environ):
        if name.endswith("RANK") or name.startswith("SLURM_") or name == "WORLD_SIZE":
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_rank_zero() is zero
    assert world_size() == size
