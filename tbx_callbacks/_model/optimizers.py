"""Finds and names the torch optimizers, and their GradScaler, inside the wrappers of trainers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def optimizer_list(optimizers: Any) -> list[Any]:
    """Returns one optimizer, several, or the values of a mapping as a list, still wrapped."""
    if isinstance(optimizers, Mapping):
        return list(optimizers.values())
    return list(optimizers) if isinstance(optimizers, (list, tuple)) else [optimizers]


def named_optimizers(optimizers: Any) -> dict[str, torch.optim.Optimizer]:
    """Unwraps torch's optimizers and names them.

    Args:
        optimizers: one, several, or several by name. Unnamed ones are named by class: `AdamW`, `AdamW-1`.

    Raises:
        TypeError: an object is not a torch optimizer.
        ValueError: there is none.
    """
    unwrapped = [unwrap_optimizer(optimizer) for optimizer in optimizer_list(optimizers)]
    if not unwrapped:
        raise ValueError(
            "optimizers must be at least one torch.optim.Optimizer, got none; pass the trainer's optimizer"
        )
    if isinstance(optimizers, Mapping):
        return dict(zip(optimizers, unwrapped, strict=True))
    named: dict[str, torch.optim.Optimizer] = {}
    for optimizer in unwrapped:
        name, n = type(optimizer).__name__, 0
        while (f"{name}-{n}" if n else name) in named:
            n += 1
        named[f"{name}-{n}" if n else name] = optimizer
    return named


def unwrap_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """Returns the torch optimizer inside the wrappers of Accelerate, DeepSpeed, Lightning or Fabric.

    Raises:
        TypeError: there is none.
    """
    # A wrapper has no step hooks, or passes on those of its optimizer.
    while (inner := getattr(optimizer, "optimizer", None)) is not None and _step_hooks(optimizer) in (
        None,
        _step_hooks(inner),
    ):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"an optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; pass the optimizer itself"
        )
    return optimizer


def scaler_of(optimizers: Any) -> Any:
    """Returns the GradScaler in Accelerate's optimizers; None without one."""
    scalers = (getattr(optimizer, "scaler", None) for optimizer in optimizer_list(optimizers))
    return next((scaler for scaler in scalers if scaler is not None), None)


def _step_hooks(optimizer: Any) -> int | None:
    """Identifies the optimizer's mapping of hooks; None without one."""
    hooks = getattr(optimizer, "_optimizer_step_post_hooks", None)
    return None if hooks is None else id(hooks)
