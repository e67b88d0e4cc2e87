"""Finds and names the torch optimizers, and their GradScaler, inside the wrappers of trainers."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping
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
        named[_unused(type(optimizer).__name__, named)] = optimizer
    return named


def _unused(name: str, used: Collection[str]) -> str:
    """Returns the name, with `-1`, `-2`, ... if it is in use."""
    n = 0
    while (f"{name}-{n}" if n else name) in used:
        n += 1
    return f"{name}-{n}" if n else name


class KnownOptimizers(Mapping[str, torch.optim.Optimizer]):
    """The optimizers of one training by name, which may be replaced while it runs.

    Args:
        optimizers: the optimizers that the training starts with.
    """

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self._current = dict(optimizers)
        # Weak: an optimizer that the training has replaced must free its state.
        self._names: weakref.WeakKeyDictionary[torch.optim.Optimizer, str] = weakref.WeakKeyDictionary(
            {known: name for name, known in optimizers.items() if isinstance(known, torch.optim.Optimizer)}
        )

    def __getitem__(self, name: str) -> torch.optim.Optimizer:
        return self._current[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._current)

    def __len__(self) -> int:
        return len(self._current)

    def name_of(self, optimizer: torch.optim.Optimizer) -> str | None:
        """Returns the optimizer's name; None if it is not known."""
        for name, known in self._current.items():
            if known is optimizer:
                return name
        name = self._names.get(optimizer, "")
        if name:
            self._current[name] = optimizer  # it was replaced, and steps again
        return name or None

    def adopt(self, optimizer: torch.optim.Optimizer, parameter_ids: Collection[int]) -> str | None:
        """Adds an optimizer that was created while the training runs; returns its name.

        It takes the name and the place of the optimizer with which it shares the most parameters, or gets a new name.

        Args:
            optimizer: the optimizer.
            parameter_ids: ids of the model's parameters. An optimizer without any of them is not added, and neither is
                one of a single parameter: trainings with an optimizer for each parameter step in the backward pass.
        """
        own = ids_of(optimizer) & set(parameter_ids)
        shared = {name: len(own & ids_of(known)) for name, known in self._current.items()}
        name = max(shared, key=lambda name: shared[name])
        if not shared[name] and len(own) < 2:
            return None
        if not shared[name]:
            name = _unused(type(optimizer).__name__, self._current)
        self._current[name] = optimizer
        self._names[optimizer] = name
        return name


def ids_of(optimizer: torch.optim.Optimizer) -> set[int]:
    """Returns the ids of the optimizer's parameters."""
    return {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}


def changes_gradients_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step unscales the gradients, as fused optimizers do: they are right only after it."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def unwrap_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """Returns the optimizer inside the wrappers of Accelerate, DeepSpeed, Lightning or Fabric.

    It is one of torch, or at least has `param_groups`.

    Raises:
        TypeError: there is none.
    """
    # A wrapper has no step hooks, or passes on those of its optimizer.
    while (inner := getattr(optimizer, "optimizer", None)) is not None and _step_hooks(optimizer) in (
        None,
        _step_hooks(inner),
    ):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer) and not isinstance(
        getattr(optimizer, "param_groups", None), list
    ):
        raise TypeError(
            f"an optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; pass the optimizer itself"
        )
    unwrapped: torch.optim.Optimizer = optimizer
    return unwrapped


def check_reports_steps(optimizers: Mapping[str, Any]) -> None:
    """Raises unless the steps of all optimizers can be seen.

    Raises:
        TypeError: an optimizer is not one of torch, and calls no hooks.
    """
    for optimizer in optimizers.values():
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"an optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; derive its class from"
                " it, so that its steps can be counted"
            )


def scaler_of(optimizers: Any) -> Any:
    """Returns the GradScaler in Accelerate's optimizers; None without one."""
    scalers = (getattr(optimizer, "scaler", None) for optimizer in optimizer_list(optimizers))
    return next((scaler for scaler in scalers if scaler is not None), None)


def _step_hooks(optimizer: Any) -> int | None:
    """Identifies the optimizer's mapping of hooks; None without one."""
    hooks = getattr(optimizer, "_optimizer_step_post_hooks", None)
    return None if hooks is None else id(hooks)
