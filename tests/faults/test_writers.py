"""Ends, forks and blocks processes in writers beside the TensorBoard writer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.processes import python
from tests.helpers.runs import ROOT, Run

SCRIPT = """
import os, sys, threading, time
from tbx_callbacks.writers import MemoryWriter, TensorBoardWriter
from tbx_callbacks.writers.fan_out import FanOutWriter
from tests.helpers.writers import Spec

class Bad(MemoryWriter):
    def write(self, step, values):
        {body}

writer = FanOutWriter(TensorBoardWriter(sys.argv[1]), [Spec(Bad), Spec(MemoryWriter)])
for step in range(1, 6):
    writer.write(step, {{"a": float(step)}})
{end}
print("over", os.getpid(), flush=True)
"""


@pytest.mark.parametrize(
    "body",
    [
        "threading.Event().wait()",
        "sys.exit(3)",
        "os.fork()",
        "os.fork() or sys.exit(3)",
    ],
)
def test_bad_writer_process_ends(tmp_path: Path, body: str) -> None:
    end = "from tbx_callbacks.writers import fan_out; fan_out._CLOSE_SECS = 0.2; writer.close()"
    script = SCRIPT.format(body=body, end=end)
    done = python("-c", script, tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("over") == 1
    assert Run(tmp_path).steps("a") == [1, 2, 3, 4, 5]


def test_forked_child_of_writer_writes_nothing(tmp_path: Path) -> None:
    script = SCRIPT.format(
        body="print('wrote', step, os.getpid(), flush=True)",
        end="if os.fork() == 0:\n    writer.write(6, {'a': 6.0})\n    writer.close()\n    os._exit(0)\n"
        "os.wait()\nwriter.close()",
    )
    done = python("-c", script, tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"wrote (\d)", done.stdout) == list("12345")
    assert Run(tmp_path).steps("a") == [1, 2, 3, 4, 5]
