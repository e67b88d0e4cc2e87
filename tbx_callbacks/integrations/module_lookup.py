"""Finds the module that a Trainer trains inside the object that it passes to callbacks."""

from __future__ import annotations

from typing import Any

from torch import nn


def module_in(model: Any, optimizer: Any) -> nn.Module:
    """Returns the model, or the only module in the attributes of an object that is not a module itself.

    Args:
        model: what the Trainer passes to its callbacks.
        optimizer: its optimizer. Of several modules, the one whose parameters it trains counts.

    Raises:
        TypeError: there is no such module, or several.
    """
    if isinstance(model, nn.Module):
        return model
    inside = list(dict.fromkeys(value for value in vars(model).values() if isinstance(value, nn.Module)))
    if len(inside) > 1:
        groups = getattr(optimizer, "param_groups", ())
        trained = {id(tensor) for group in groups for tensor in group["params"]}
        inside = [module for module in inside if not trained.isdisjoint(map(id, module.parameters()))]
    if len(inside) != 1:
        raise TypeError(
            f"model must be a torch.nn.Module or hold one, got {type(model).__name__} with {len(inside)} of them"
        )
    return inside[0]
