"""Runs Python code in a new process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers.limits import limit

HEAVY = ("torch", "transformers", "lightning", "pytorch_lightning", "tensorboard", "datasets", "plotly", "jinja2")
"""Modules that take long to import."""


def python(*arguments: object, seconds: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the interpreter and captures its output; it may fail."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit(seconds), **options)


def modules_loaded_by(code: str, cwd: Path | None = None) -> set[str]:
    """The modules of HEAVY that the code imports."""
    script = f"{code}\nimport sys\nprint('\\n'.join(name for name in {HEAVY!r} if name in sys.modules))"
    return set(python("-c", script, cwd=cwd, check=True).stdout.split())
