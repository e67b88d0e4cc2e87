"""Imports the scripts of docs/ that write its pages."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from tests.helpers.runs import ROOT


def doc_script(name: str) -> ModuleType:
    """Returns docs/<name>.py as a module."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = before
