"""Tests that the plug-in costs projects nothing until a test asks for it."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.limits import limit


def test_pytest_plugin_imports_no_torch() -> None:
    code = (
        "import sys, tbx_callbacks.pytest_plugin; print({'torch', 'numpy', 'tbx_callbacks.rules'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=limit(60), check=True)
    assert done.stdout.strip() == "set()"
