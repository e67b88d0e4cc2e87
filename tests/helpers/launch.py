"""Starts scripts on several ranks."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.helpers.limits import limit
from tests.helpers.processes import python

SERVER = Path(__file__).parent / "rank_server.py"


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
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "script": str(script),
            "arguments": [str(argument) for argument in arguments],
            "ranks": number,
            "folder": folder,
            "directory": os.getcwd(),
            "environment": {**os.environ, **group, "OMP_NUM_THREADS": "1"},
        }
        try:
            by_rank = _server().run(request, limit(seconds))
        except BaseException:  # its answers would be read by the next test
            _server().kill()
            _server.cache_clear()
            raise
        files = [Path(folder) / str(rank) for rank in range(number)]
        printed = [file.read_text() if file.exists() else "" for file in files]
        return [EndedRank(by_rank.get(rank), text) for rank, text in enumerate(printed)]


class _RankServer:
    """The process that runs scripts on ranks, one after the other."""

    def __init__(self) -> None:
        # Python 3.12 warns if a process with threads forks; gloo and OpenMP start theirs in the children only.
        warnings = ["-W", "error::ResourceWarning", "-W", "ignore::DeprecationWarning:__main__"]
        self._process = subprocess.Popen(
            [sys.executable, *warnings, str(SERVER)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, request: dict[str, Any], seconds: float) -> dict[int, int]:
        """Returns the exit code of each rank that ended in time; the others are killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        leader = int(self._process.stdout.readline())
        timer = threading.Timer(seconds, _kill_group, [leader])
        timer.daemon = True
        timer.start()
        codes: dict[int, int] = {}
        try:
            while (line := self._process.stdout.readline()) not in ("done\n", ""):
                rank, code = map(int, line.split())
                codes[rank] = code
        finally:
            timer.cancel()
            _kill_group(leader)  # what a killed leader left behind
        return codes

    def kill(self) -> None:
        atexit.unregister(self.close)
        self._process.kill()
        self._process.communicate()

    def close(self) -> None:
        try:
            self._process.communicate(timeout=limit(10))
        except subprocess.TimeoutExpired:
            self.kill()


@cache
def _server() -> _RankServer:
    server = _RankServer()
    atexit.register(server.close)
    return server


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
