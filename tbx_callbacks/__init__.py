"""TensorBoard callbacks for fine-tuning with the Hugging Face Trainer, Lightning and plain PyTorch loops.

Importing this package imports no trainer: each public name is imported on first use. When transformers is imported, it
learns `report_to="tbx_callbacks"`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tbx_callbacks.autolog.huggingface import register

if TYPE_CHECKING:
    from tbx_callbacks._config.errors import ConfigError
    from tbx_callbacks._config.metric_set import Config, load_config
    from tbx_callbacks.autolog.activation import init
    from tbx_callbacks.integrations.accelerate_tracker import TbxTracker
    from tbx_callbacks.integrations.huggingface.callback import TbxTrainerCallback
    from tbx_callbacks.integrations.lightning.callback import TbxLightningCallback
    from tbx_callbacks.integrations.loop import TbxLoop
    from tbx_callbacks.integrations.preflight import preflight
    from tbx_callbacks.integrations.session import Session
    from tbx_callbacks.predictions import log_predictions

__version__ = "0.1.0"
__all__ = [
    "Config",
    "ConfigError",
    "Session",
    "TbxLightningCallback",
    "TbxLoop",
    "TbxTracker",
    "TbxTrainerCallback",
    "init",
    "load_config",
    "log_predictions",
    "preflight",
]

_MODULES = {
    "TbxLightningCallback": "tbx_callbacks.integrations.lightning.callback",
    "TbxLoop": "tbx_callbacks.integrations.loop",
    "TbxTracker": "tbx_callbacks.integrations.accelerate_tracker",
    "TbxTrainerCallback": "tbx_callbacks.integrations.huggingface.callback",
    "Config": "tbx_callbacks._config.metric_set",
    "ConfigError": "tbx_callbacks._config.errors",
    "Session": "tbx_callbacks.integrations.session",
    "init": "tbx_callbacks.autolog.activation",
    "load_config": "tbx_callbacks._config.metric_set",
    "log_predictions": "tbx_callbacks.predictions",
    "preflight": "tbx_callbacks.integrations.preflight",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'tbx_callbacks' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register()
