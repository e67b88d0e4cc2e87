"""Tests that only rank 0 writes when a training runs on several nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.launch import free_port
from tests.helpers.limits import limit

SCRIPT = Path(__file__).parent / "scripts" / "train_on_nodes.py"


def test_rank_zero_on_two_nodes_alone_writes(tmp_path: Path) -> None:
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=here"]
    agents = []
    for node in ("one", "two"):
        (tmp_path / node).mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *rendezvous]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        agents.append(
            subprocess.Popen(
                [*command, str(SCRIPT)],
                cwd=tmp_path / node,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    printed = "".join(agent.communicate(timeout=limit(120))[0] for agent in agents)
    assert [agent.returncode for agent in agents] == [0, 0], printed[-3000:]
    assert "rank 0 of node 0: True SummaryWriter False 1" in printed, printed
    assert "rank 1 of node 1: False NullSummaryWriter True 0" in printed, printed
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1, written
    assert written[0].parts[1:3] == ("runs", "here")
    assert len(list(tmp_path.rglob("runs"))) == 1  # the other node has no folder
