"""Runs the command line, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.limits import limit

COMMAND = [sys.executable, "-c", "import sys; del sys.path[0]; from tbx_callbacks.cli import main; main()"]
"""The command as the installed script runs it: the working folder, which `-c` adds, is not on the import path."""


def run_process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command in a new process, as a user does."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=limit(120), cwd=cwd, env=environment
    )


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command in this process, to save the start of an interpreter; it raises the command's exceptions."""
    from typer.testing import CliRunner

    from tbx_callbacks import cli

    folder, path, width = Path.cwd(), list(sys.path), cli.console.width
    cli.console.width = 200
    try:
        os.chdir(cwd or folder)
        done = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False, env={"NO_COLOR": "1"})
    finally:
        os.chdir(folder)
        sys.path[:], cli.console.width = path, width
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)
