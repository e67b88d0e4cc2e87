"""Provides Lightning's base classes from `lightning` or `pytorch_lightning`, whose Trainers may reject each other's.

The package that the program has imported is used, or else the one that is installed. Import `pytorch_lightning` before
this package where `lightning` older than 2.6 is installed too. Tested on 2.2 and 2.6.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _import_packages() -> list[Any]:
    imported = [importlib.import_module(name) for name in _PACKAGES if name in sys.modules]
    if not imported:
        try:
            return [importlib.import_module(_PACKAGES[0])]
        except ImportError:
            return [importlib.import_module(_PACKAGES[1])]
    return imported


_packages = _import_packages()
Callback: Any = type("Callback", tuple(package.callbacks.Callback for package in _packages), {})
Logger: Any = type("Logger", tuple(package.loggers.Logger for package in _packages), {})
