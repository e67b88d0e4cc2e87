"""Converts hyper-parameters of any type to the numbers, booleans and texts that TensorBoard stores."""

from __future__ import annotations

import functools
import math
import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor, nn

_MAX_DEPTH = 8  # of nested mappings; deeper ones may contain themselves
_MAX_CHARACTERS = 500
_MAX_ELEMENTS = 16  # of arrays that are written out
_LARGEST_INTEGER = 2**53  # a float64 holds the integers up to here

HParamValue = bool | float | str


def plain_hparams(hparams: Any) -> dict[str, HParamValue]:
    """Returns hyper-parameters as numbers, booleans and texts; never raises because of a value.

    Nested mappings, namespaces and dataclasses are flattened: `{"optimizer": {"lr": 0.1}}` is `optimizer/lr`.

    Raises:
        TypeError: it is neither a mapping nor a namespace nor a dataclass.
    """
    values = _members(hparams)
    if values is None:
        raise TypeError(
            f"hparams must be a mapping of names to values, got {type(hparams).__name__}; pass for example vars(args)"
        )
    plain: dict[str, HParamValue] = {}
    _flatten(plain, "", values, 0)
    return plain


def _members(value: Any) -> Mapping[Any, Any] | None:
    """The items of a mapping, a namespace or a dataclass; None for other values."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Namespace):
        return vars(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    return None


def _flatten(plain: dict[str, HParamValue], prefix: str, values: Mapping[Any, Any], depth: int) -> None:
    try:
        items = list(values.items())
    except Exception:  # a class from outside may raise anything
        plain[prefix.removesuffix("/") or "hparams"] = type(values).__name__
        return
    for key, value in items:
        name = prefix + str(_plain(key))
        members = None if isinstance(value, Tensor) else _members(value)
        if members and depth < _MAX_DEPTH:
            _flatten(plain, f"{name}/", members, depth + 1)
        elif members and depth == _MAX_DEPTH:
            plain[name] = type(value).__name__
        else:
            plain[name] = _plain(value)


def _plain(value: Any) -> HParamValue:
    try:
        return _number(value) if _is_number(value) else _text(value)
    except Exception:
        return type(value).__name__


def _is_number(value: Any) -> bool:
    if isinstance(value, Enum) or np.iscomplexobj(value):
        return False
    is_scalar = isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0
    return is_scalar or isinstance(value, (bool, np.bool_, Real))


def _number(value: Any) -> HParamValue:
    number = value.item() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value
    if isinstance(number, bool):
        return number
    if isinstance(number, Integral):
        whole = int(number)
        return whole if abs(whole) <= _LARGEST_INTEGER else _text(whole)
    return float(number) if math.isfinite(number) else str(float(number))


def _text(value: Any) -> str:
    if isinstance(value, Enum):
        text = value.value if isinstance(value.value, str) else value.name
    elif isinstance(value, str):
        text = str(value)
    elif isinstance(value, os.PathLike):
        text = os.fsdecode(value)
    elif isinstance(value, nn.Module):
        text = type(value).__name__
    elif isinstance(value, (Tensor, np.ndarray)):
        is_small = math.prod(value.shape) <= _MAX_ELEMENTS
        text = str(value.tolist()) if is_small else f"{type(value).__name__} of shape {list(value.shape)}"
    elif isinstance(value, functools.partial):
        text = f"partial({_text(value.func)})"
    elif callable(value):
        text = getattr(value, "__qualname__", type(value).__name__)
    elif isinstance(value, (list, tuple, set, frozenset)) and len(value) <= _MAX_CHARACTERS:
        text = str([_plain(member) for member in value])
    else:
        text = str(value)
    text = text.encode("utf-8", "replace").decode()  # lone surrogates
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."
