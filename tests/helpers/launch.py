"""Starts scripts on several ranks: under torchrun, or one process a rank."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.limits import limit


def launch(script: Path, *arguments: object, ranks: int = 1, seconds: float = 200) -> str:
    """What was printed, by ranks in any order; a launch that takes longer than `limit(seconds)` is killed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *torchrun, str(script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit(seconds),
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-6000:]
    assert "Traceback" not in done.stderr, done.stderr[-6000:]
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Ended:
    """How a rank ended; the code of one that had to be stopped is None."""

    code: int | None
    said: str


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ranks(script: Path, *arguments: object, number: int = 2, seconds: float = 60) -> list[Ended]:
    """Runs a script on all ranks; those that take longer than `limit(seconds)` are killed, and have no code."""
    everywhere = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(number)}
    started = []
    for rank in range(number):
        environment = {**os.environ, **everywhere, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "-W", "error::ResourceWarning", str(script), *map(str, arguments)]
        started.append((subprocess.Popen(command, env=environment, stdout=said, stderr=said), said))
    end = time.monotonic() + limit(seconds)
    ended = []
    for process, said in started:
        code: int | None = None
        try:
            code = process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        said.seek(0)
        ended.append(Ended(code, said.read()))
        said.close()
    return ended
