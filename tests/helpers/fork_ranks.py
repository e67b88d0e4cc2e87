"""Runs a script on several ranks that are forked from one process, so that its imports are paid once.

Run as: python fork_ranks.py SCRIPT RANKS FOLDER ARGUMENTS...; FOLDER gets the output of each rank. The script prints
a line with the rank and the exit code as each rank ends.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from pathlib import Path


def fork(number: int, folder: Path) -> int | None:
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
        print(children.pop(child), os.waitstatus_to_exitcode(status), flush=True)
    return None


script, ranks, logs, *arguments = sys.argv[1:]
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="imported")
importlib.import_module("torch._dynamo")  # optimizers import it, and the import takes seconds
if fork(int(ranks), Path(logs)) is not None:
    # the variables live until the interpreter ends, as in a separate process
    kept = runpy.run_path(script, run_name="__main__")
