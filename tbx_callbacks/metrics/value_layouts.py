"""Describes values to other ranks: which class computes the result, and with which options.

A description is JSON. It names a class, and a rank only makes values of classes that it has: nothing is imported or run
because another process names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tbx_callbacks._text import reason
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.values import Value


def to_json(value: Value) -> Any:
    """Returns a description of a value: its class and its options. Its parts are left out; they travel as numbers.

    Raises:
        TypeError: the value is not a dataclass, or an option is neither a number, a text, None nor a tuple of these.
    """
    kind: Any = type(value)
    if not is_dataclass(kind):
        raise TypeError(f"a value must be a dataclass, got {kind.__name__}")
    names = [option.name for option in fields(kind) if option.init]
    return {"class": _name(type(value)), "options": {name: _to_json(name, getattr(value, name)) for name in names}}


def from_json(description: Any) -> Value:
    """Returns a value without parts, from its description. Lists become tuples.

    A class that this process has not defined, or that refuses its options, gives a value whose `result` raises
    TypeError.
    """
    name, options = description["class"], {key: _from_json(item) for key, item in description["options"].items()}
    kinds = [kind for kind in _subclasses(Value) if _name(kind) == name]
    if not kinds:
        return _Unusable(f"{name} must be defined on every rank; import its module where the training starts")
    try:
        return kinds[-1](**options)  # the last one, if a notebook has defined the class again
    except Exception as error:  # a class from outside may raise anything
        return _Unusable(f"{name} must accept 0.0 for each of its parts, got {reason(error)}; check parts in sums()")


@dataclass(frozen=True)
class _Unusable(Value):
    """Takes the place of a value that this rank cannot make."""

    reason: str

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> FinalValue | None:
        raise TypeError(self.reason)


def check_can_travel(value: Value) -> None:
    """Checks that a value can be described to other ranks.

    Raises:
        TypeError: an option is neither a number, a text, None nor a tuple of these, or the class refuses a number as a
            part.
    """
    copy = from_json(to_json(value))
    if isinstance(copy, _Unusable):
        raise TypeError(copy.reason)


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _subclasses(kind: type[Value]) -> Iterator[type[Value]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _to_json(name: str, item: Any) -> Any:
    if isinstance(item, Value):
        return to_json(item)
    if isinstance(item, Tensor):
        return 0.0
    if isinstance(item, Mapping):
        return {}
    if isinstance(item, (tuple, list)):
        return [_to_json(name, entry) for entry in item]
    if isinstance(item, np.generic):
        item = item.item()
    if item is None or isinstance(item, (bool, int, float, str)):
        return item
    raise TypeError(f"{name} must be a number, a text, None or a tuple of these, got {type(item).__name__}")


def _from_json(item: Any) -> Any:
    if isinstance(item, list):
        return tuple(map(_from_json, item))
    return from_json(item) if isinstance(item, Mapping) and item else item
