"""Registers hooks on a model's forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def is_compiled(module: nn.Module) -> bool:
    """Whether a module's forward pass runs as a compiled graph: `module.compile()` or `torch.compile(module)`."""
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")


def on_forward(module: nn.Module, hook: Callable[..., None], *, compiled: bool = False) -> Any:
    """Calls `hook(module, args, kwargs, outputs)` after each forward pass; returns a handle with `remove`."""
    if compiled or is_compiled(module):
        hook = torch.compiler.disable(hook)  # otherwise torch may trace it and recompile it at every count
    return module.register_forward_hook(hook, with_kwargs=True)
