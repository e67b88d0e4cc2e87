"""TensorBoard callbacks for fine-tuning: one engine for the Hugging Face Trainer, Lightning and plain PyTorch loops.

Importing this package loads no trainer: each public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbx_callbacks.adapters.hf import TbxTrainerCallback
    from tbx_callbacks.adapters.lightning import TbxLightningCallback
    from tbx_callbacks.adapters.loop import TbxLoop
    from tbx_callbacks.classification import log_predictions
    from tbx_callbacks.config import Config, load_config
    from tbx_callbacks.errors import ConfigError

__version__ = "0.1.0"
__all__ = [
    "Config",
    "ConfigError",
    "TbxLightningCallback",
    "TbxLoop",
    "TbxTrainerCallback",
    "load_config",
    "log_predictions",
]

_HOME = {
    "TbxLightningCallback": "tbx_callbacks.adapters.lightning",
    "TbxLoop": "tbx_callbacks.adapters.loop",
    "TbxTrainerCallback": "tbx_callbacks.adapters.hf",
    "Config": "tbx_callbacks.config",
    "ConfigError": "tbx_callbacks.errors",
    "load_config": "tbx_callbacks.config",
    "log_predictions": "tbx_callbacks.classification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tbx_callbacks' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
