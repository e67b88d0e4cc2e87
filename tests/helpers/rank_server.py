"""Runs scripts on several ranks, all forked from this process, so that the imports of torch are paid once.

Each line on the standard input is a request in JSON: `script`, `arguments`, `ranks`, `folder` (for the output of each
rank), `directory` and `environment`. The answer is a line with the process group of the ranks, a line with the rank and
the exit code as each rank ends, and a line `done`. What torch reads when it is imported is the same for all requests.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import TextIO


def fork(number: int, folder: Path, answers: TextIO) -> int | None:
    """Forks the ranks; returns the rank in a child, and None in the parent after all children ended."""
    children = {}
    for rank in range(number):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            printed = os.open(folder / str(rank), os.O_WRONLY | os.O_CREAT)
            os.dup2(printed, 1)
            os.dup2(printed, 2)
            os.close(printed)
            return rank
        children[child] = rank
    while children:
        child, status = os.wait()
        print(children.pop(child), os.waitstatus_to_exitcode(status), file=answers, flush=True)
    return None


for name in ("torch", "torch.distributed", "torch._dynamo"):  # optimizers import the last, and it takes seconds
    importlib.import_module(name)
request = None
for line in sys.stdin:
    leader = os.fork()
    if leader == 0:
        request = json.loads(line)
        break
    print(leader, flush=True)
    os.waitpid(leader, 0)
    print("done", flush=True)
if request is not None:  # in a child, which ends like a process of its own
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    answers = os.fdopen(os.dup(1), "w")  # what the script prints while it is imported is no answer
    os.dup2(2, 1)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.argv = [request["script"], *request["arguments"]]
    runpy.run_path(request["script"], run_name="imported")
    if fork(request["ranks"], Path(request["folder"]), answers) is not None:
        # the variables live until the interpreter ends, as in a separate process
        kept = runpy.run_path(request["script"], run_name="__main__")
