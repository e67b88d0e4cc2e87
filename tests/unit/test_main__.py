"""Tests `python -m tbx_callbacks`."""

from __future__ import annotations

from tests.helpers.processes import python


def test_module_runs_the_command_line() -> None:
    done = python("-m", "tbx_callbacks", "--help")
    assert done.returncode == 0
    assert "doctor" in done.stdout
