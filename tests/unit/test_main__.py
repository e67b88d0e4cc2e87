"""Tests `python -m tbx_callbacks`."""

from __future__ import annotations

import os

from tests.helpers.processes import python


def test_module_help_of_run_fits_terminal() -> None:
    done = python("-m", "tbx_callbacks", "run", "--help", env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0
    assert "Run a training script" in done.stdout
    assert len(done.stdout.rstrip().splitlines()) <= 24
