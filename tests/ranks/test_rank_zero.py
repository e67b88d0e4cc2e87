"""Rank 0 alone writes: over nodes, and by what each launcher says before there is a process group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tbx_callbacks._distributed.rank import is_rank_zero, world_size
from tests.helpers.launch import free_port
from tests.helpers.limits import limit

NODES = Path(__file__).parent / "scripts" / "train_on_nodes.py"


def test_two_nodes_only_rank_0_writes(tmp_path: Path) -> None:
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=here"]
    agents = []
    for node in ("one", "two"):
        (tmp_path / node).mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *rendezvous]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        agents.append(
            subprocess.Popen(
                [*command, str(NODES)],
                cwd=tmp_path / node,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = "".join(agent.communicate(timeout=limit(120))[0] for agent in agents)
    assert [agent.returncode for agent in agents] == [0, 0], said[-3000:]
    assert "rank 0 of node 0: True SummaryWriter False 1" in said, said
    assert "rank 1 of node 1: False NullWriter True 0" in said, said
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1, written
    assert written[0].parts[1:3] == ("runs", "here")
    assert len(list(tmp_path.rglob("runs"))) == 1  # the other node has no folder either


@pytest.mark.parametrize(
    ("environment", "zero", "size"),
    [
        ({}, True, 1),
        # torchrun, accelerate launch, deepspeed
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}, True, 8),
        ({"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8"}, False, 8),
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1", "WORLD_SIZE": "16"}, False, 16),
        # Lightning's own: the children know their node and their place on it
        ({"NODE_RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}, True, 8),
        ({"NODE_RANK": "0", "LOCAL_RANK": "2", "WORLD_SIZE": "8"}, False, 8),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "16"}, False, 16),
        # srun; torchrun below srun, whose own numbers count
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
def test_rank_from_launcher_variables(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], zero: bool, size: int
) -> None:
    for name in list(os.environ):
        if name.endswith("RANK") or name.startswith("SLURM_") or name == "WORLD_SIZE":
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_rank_zero() is zero
    assert world_size() == size
