"""The command `tbx-callbacks`."""

from __future__ import annotations

from tbx_callbacks.cli.commands import app, console, main

__all__ = ["app", "console", "main"]
