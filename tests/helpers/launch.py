"""Starts scripts on several ranks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.limits import limit
from tests.helpers.processes import python

FORK_RANKS = Path(__file__).parent / "fork_ranks.py"


def launch(script: Path, *arguments: object, ranks: int = 1, seconds: float = 200) -> str:
    """Runs a script on all ranks and returns their output; they must succeed before `limit(seconds)`."""
    if ranks == 1:
        done = python(script, *arguments, seconds=seconds, env={**os.environ, "OMP_NUM_THREADS": "1"})
        ended = [EndedRank(done.returncode, done.stdout + done.stderr)]
    else:
        ended = run_ranks(script, *arguments, number=ranks, seconds=seconds)
    for rank in ended:
        assert rank.code == 0, rank.printed[-6000:]
        assert "Traceback" not in rank.printed, rank.printed[-6000:]
    return "".join(rank.printed for rank in ended)


@dataclass(frozen=True)
class EndedRank:
    """The exit code and output of a rank; the code is None if the rank was killed."""

    code: int | None
    printed: str


def free_port() -> int:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        return int(port.getsockname()[1])


def run_ranks(script: Path, *arguments: object, number: int = 2, seconds: float = 60) -> list[EndedRank]:
    """Runs a script on all ranks; kills those that take longer than `limit(seconds)`."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(number)}
    # Python 3.12 warns if a process with threads forks; gloo and OpenMP start theirs in the children only.
    warnings = ["-W", "error::ResourceWarning", "-W", "ignore::DeprecationWarning:__main__"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *warnings, FORK_RANKS, script, number, folder, *arguments]
        parent = subprocess.Popen(
            [*map(str, command)],
            env={**os.environ, **group, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            codes, _ = parent.communicate(timeout=limit(seconds))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
            codes, _ = parent.communicate()
        by_rank = dict(tuple(map(int, line.split())) for line in codes.splitlines())
        files = [Path(folder) / str(rank) for rank in range(number)]
        printed = [file.read_text() if file.exists() else "" for file in files]
        return [EndedRank(by_rank.get(rank), text) for rank, text in enumerate(printed)]
