"""Tests the rank of this process before there is a process group, from the variables of each launcher."""

from __future__ import annotations

import os

import pytest

from tbx_callbacks._distributed.rank import check_group, is_rank_zero, rank_variable, world_size


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({}, None),
        # torchrun, accelerate launch, deepspeed
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}, None),
        ({"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8"}, "RANK=3"),
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1", "WORLD_SIZE": "16"}, "RANK=8"),
        # Lightning: the children know their node and their rank on it
        ({"NODE_RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}, None),
        ({"NODE_RANK": "0", "LOCAL_RANK": "2", "WORLD_SIZE": "8"}, "LOCAL_RANK=2"),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "16"}, "NODE_RANK=1"),
        # srun; torchrun started by srun, where torchrun's ranks count
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}, None),
        ({"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}, "SLURM_PROCID=5"),
        ({"SLURM_PROCID": "1", "RANK": "8", "WORLD_SIZE": "16"}, "RANK=8"),
        ({"SLURM_PROCID": "0", "RANK": "1", "WORLD_SIZE": "8"}, "RANK=1"),
        # mpirun
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, "OMPI_COMM_WORLD_RANK=1"),
        ({"PMI_RANK": "0"}, None),
        ({"RANK": ""}, None),
        ({"WORLD_SIZE": "8"}, None),
    ],
)
def test_rank_from_launcher_variables_before_process_group(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], variable: str | None
) -> None:
    for name in list(os.environ):
        if name.endswith("RANK") or name.startswith("SLURM_") or name == "WORLD_SIZE":
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank_variable() == variable
    assert is_rank_zero() is (variable is None)
    assert world_size() == 1  # only a process group has several ranks


@pytest.mark.parametrize("wrong", ["gloo", 3, [0, 1]])
def test_check_group_other_object_raises(wrong: object) -> None:
    with pytest.raises(TypeError, match="process_group must be a group of"):
        check_group(wrong)
