"""Starts a script of these tests: under torchrun on several ranks, or alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
FOUND = os.pathsep.join([str(TESTS), str(TESTS.parent)])  # the package that these tests lie beside


def launch(script: Path, *arguments: object, ranks: int = 1, limit: float = 200) -> str:
    """What was printed, by ranks in any order; a launch that is not over after `limit` seconds is killed."""
    environment = {**os.environ, "PYTHONPATH": FOUND, "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *torchrun, str(script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-6000:]
    assert "Traceback" not in done.stderr, done.stderr[-6000:]
    return done.stdout + done.stderr
