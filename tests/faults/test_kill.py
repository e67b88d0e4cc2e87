"""Tests that a training run killed at a random moment keeps its published steps."""

from __future__ import annotations

import os
import random
import re
import select
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import Run, files
from tests.helpers.variations import variations

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork to start 50 runs in good time"),
]

AT_ONCE = 10  # number of runs; each is killed seconds after its first step, however fast it trains


def start(folder: Path) -> tuple[int, int]:
    """Starts a run in a forked child, which shares the imports; returns a pipe with its published steps."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writing, 1)
            from tests.faults.training import run

            torch.set_num_threads(1)
            run(str(folder))
        finally:
            os._exit(9)
    os.close(writing)
    return child, reading


def published(reading: int, seconds: float) -> bytes:
    printed, until = b"", time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            chunk = os.read(reading, 1 << 16)
            if not chunk:
                break
            printed += chunk
    return printed


def rest(reading: int) -> bytes:
    printed = b""
    while chunk := os.read(reading, 1 << 16):
        printed += chunk
    os.close(reading)
    return printed


def steps(printed: bytes) -> dict[int, float]:
    """The time at which each step was published."""
    return {int(step): float(at) for step, at in re.findall(rb"published (\d+) at ([\d.]+)\n", printed)}


def kill(child: int, reading: int, seed: int) -> tuple[bytes, float]:
    """Kills the run at a random moment; returns its output and that moment."""
    printed = b""
    while not steps(printed):  # wait for the first step
        printed += published(reading, 0.05)
    printed += published(reading, 2.0 + random.Random(seed).uniform(0.0, 1.0))
    killed = time.monotonic()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return printed + rest(reading), killed


@pytest.mark.parametrize("first", variations(range(0, 50, AT_ONCE), 0))
def test_killed_run_keeps_published_steps(tmp_path: Path, first: int) -> None:
    folders = {seed: tmp_path / str(seed) for seed in range(first, first + AT_ONCE)}
    children = [(*start(folder), seed) for seed, folder in folders.items()]  # forked before this process has threads
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(lambda child: kill(*child), children))
    for folder, (printed, killed) in zip(folders.values(), ended, strict=True):
        read = Run(folder / "logs")
        kept, told = read.steps("train/loss"), steps(printed)
        assert kept == list(range(1, len(kept) + 1))  # every step once and in order
        # Usually every published step is on disk; 2 s allow for a disk that is busy with other tests.
        assert {step for step, at in told.items() if at <= killed - 2.0} <= set(kept)
        assert any(at <= killed - 2.0 for at in told.values())
        assert read.steps("weight_norm/total") == kept
        assert len(files(folder / "logs")) == 1
