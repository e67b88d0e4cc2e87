"""Tests what is closed when the process ends."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from tbx_callbacks._distributed.at_exit import AtExit

SCRIPT = """
import os, sys, tempfile
from tbx_callbacks._distributed.at_exit import AtExit

class Open:
    def __init__(self, name):
        self.name = name
        self.at_exit = AtExit(self, Open.close)
        self.at_exit.register()

    def close(self):
        os.write(1, self.name.encode())

folder = tempfile.TemporaryDirectory()
"""


def output(script: str) -> str:
    """What a process prints that runs the script to its end."""
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + script], cwd=root, capture_output=True, text=True, check=True, timeout=300
    ).stdout


class Open:
    def __init__(self) -> None:
        self.at_exit = AtExit(self, print)
        self.at_exit.register()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("a, b = Open('a'), Open('b')", "ba"),
        ("a, b = Open('a'), Open('b'); b.at_exit.cancel()", "a"),
        ("a, b = Open('a'), Open('b'); a.at_exit.cancel(); a.at_exit.register()", "ab"),
        ("a = Open('a'); a.at_exit.register()", "a"),
        ("Open('a'); b = Open('b')", "b"),
        ("a = Open('a'); a.cycle = a; raise SystemExit", "a"),
    ],
    ids=["last-first", "cancelled", "registered-again", "registered-twice", "dropped", "exit"],
)
def test_at_exit_closes_open_ones_in_order(script: str, expected: str) -> None:
    assert output(script) == expected


def test_at_exit_before_temporary_folder_is_removed() -> None:
    script = "Open.close = lambda self: os.write(1, b'%d' % os.path.isdir(folder.name)); a = Open('a')"
    assert output(script) == "1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_at_exit_forked_child_closes_only_its_own() -> None:
    script = """
a = Open('a')
if os.fork() == 0:
    b = Open('b')
    a.at_exit.register()
    sys.exit()
os.wait()
os.write(1, b'|')
"""
    assert output(script) == "ab|a"


@pytest.mark.parametrize("end", [lambda item: item.at_exit.cancel(), lambda item: None], ids=["cancelled", "dropped"])
def test_at_exit_leaves_no_entry(end: Callable[[Open], None]) -> None:
    gc.collect()
    before = len(weakref.finalize._registry)  # type: ignore[attr-defined]
    for _ in range(10):
        item = Open()
        end(item)
    del item
    assert len(weakref.finalize._registry) == before  # type: ignore[attr-defined]
