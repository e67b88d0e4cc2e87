"""Checks arguments of users, with errors that name the rule and the remedy."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import nn

from tbx_callbacks._config.validation import short
from tbx_callbacks._extensions import suggest


def refuse_unknown(unknown: Mapping[str, object], *classes: type) -> None:
    """Raises for arguments that none of the classes takes.

    Raises:
        TypeError: there is an unknown argument; the message names the nearest known one.
    """
    for name, value in unknown.items():
        parameters = [inspect.signature(cls.__init__).parameters.values() for cls in classes]  # type: ignore[misc]
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        known = [each.name for group in parameters for each in group if each.kind in kinds and each.name != "self"]
        nearest = suggest(name, dict.fromkeys(known), what="arguments")
        raise TypeError(f"{name} must be a known argument, got {name}={short(value)}; {nearest}")


def check_module(model: object) -> None:
    """Raises unless the model is one module.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(model, nn.Module):
        several = isinstance(model, (list, tuple, dict))
        remedy = "put several models into one nn.ModuleList" if several else "pass the model that the optimizer trains"
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; {remedy}")


def check_whole_number(name: str, value: object, remedy: str) -> None:
    """Raises unless the value is a whole number.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of steps, got {short(value)}; {remedy}")
