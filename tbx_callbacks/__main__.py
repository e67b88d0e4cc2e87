"""Runs the command line: `python -m tbx_callbacks`."""

from __future__ import annotations

from tbx_callbacks.cli import main

if __name__ == "__main__":
    main()
