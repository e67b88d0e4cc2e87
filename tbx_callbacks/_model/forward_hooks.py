"""Registers hooks on a model's forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def is_compiled(module: nn.Module) -> bool:
    """Whether a module's forward pass runs as a compiled graph: `module.compile()` or `torch.compile(module)`."""
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")


class Hook:
    """A hook on the forward pass of a module. A copy of the module (deepcopy, `torch.save`) has a hook without effect.

    Args:
        function: see `register_forward_hook`.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> None:
        self._function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        # A standard function that takes anything and does nothing: the copy loads where this package is not installed.
        return getattr, (contextlib.nullcontext(), "__exit__")


def on_forward(module: nn.Module, hook: Callable[..., None], *, compiled: bool = False) -> Any:
    """Calls `hook(module, args, kwargs, outputs)` after each forward pass; returns a handle with `remove`."""
    if compiled or is_compiled(module):
        hook = torch.compiler.disable(hook)  # otherwise torch may trace it and recompile it at every count
    return module.register_forward_hook(hook, with_kwargs=True)


def before_forward(module: nn.Module, hook: Callable[..., None], *, compiled: bool = False) -> Any:
    """Calls `hook(module, args)` before each forward pass; returns a handle with `remove`."""
    return module.register_forward_pre_hook(torch.compiler.disable(hook) if compiled or is_compiled(module) else hook)
