"""Lightning's base classes, of the package `lightning` or `pytorch_lightning`: their Trainers may refuse each other's.

What the program has imported counts, or else what is installed. Import `pytorch_lightning` before this package where
`lightning` is installed too and older than 2.6. Tested on 2.2 and 2.6.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _imported() -> list[Any]:
    found = [importlib.import_module(name) for name in _PACKAGES if name in sys.modules]
    if not found:
        try:
            return [importlib.import_module(_PACKAGES[0])]
        except ImportError:
            return [importlib.import_module(_PACKAGES[1])]
    return found


_packages = _imported()
Callback: Any = type("Callback", tuple(package.callbacks.Callback for package in _packages), {})
Logger: Any = type("Logger", tuple(package.loggers.Logger for package in _packages), {})
DummyExperiment: Any = importlib.import_module(f"{_packages[0].__name__}.loggers.logger").DummyExperiment
