"""The command `tbx-callbacks`."""

from __future__ import annotations

from tbx_callbacks.cli.commands import app, main
from tbx_callbacks.cli.terminal import console

__all__ = ["app", "console", "main"]
