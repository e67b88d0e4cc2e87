"""Checks the values that a metric returns, while its name is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
from torch import Tensor
from torch.distributed.tensor import DTensor

from tbx_callbacks._model.parameters import PerGroup
from tbx_callbacks.metrics.base import Values
from tbx_callbacks.metrics.host_values import HostValue
from tbx_callbacks.metrics.values import Derived, Histogram, Part, Value
from tbx_callbacks.tags import check_tag

GROUP = "{group}"
"""Stands for each group in the tag of a value that has one number per group."""
Parts = tuple[Sequence[Part], Sequence[Part]]
"""The sums and the maxes of a value."""
_HOST_VALUES = get_args(HostValue)


def checked_parts(values: Values) -> dict[str, Parts]:
    """Returns the parts of each `Value`, by tag.

    Raises:
        TypeError: something is not a value, or a part of a value is neither a number nor one number per group.
        ValueError: a tag has `{group}` and its value no groups, or the other way round.
        OverflowError: a number is too large for float64.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"a metric must return a mapping of tags to values, got {type(values).__name__}")
    for tag, value in values.items():
        if not isinstance(value, (Value, Histogram, Derived, *_HOST_VALUES)):
            raise TypeError(
                f"{tag} must be a value such as Sum, Mean or Max, got {type(value).__name__}; return Max(number)"
            )
    return {tag: _parts(tag, value) for tag, value in values.items() if isinstance(value, Value)}


def _parts(tag: str, value: Value) -> Parts:
    sums, maxes = value.sums(), value.maxes()
    groups: tuple[str, ...] | None = None
    for part in (*sums, *maxes):
        if not isinstance(part, Mapping):
            _check_number(tag, part)
            continue
        names = part.names if isinstance(part, PerGroup) else tuple(part)
        if groups is not None and names != groups and set(names) != set(groups):
            raise ValueError(f"all parts of {tag} must have the same groups, got {groups} and {names}")
        groups = groups or names
        if isinstance(part, PerGroup):
            if part.numbers.shape != (len(names),):
                raise ValueError(f"a part of {tag} must have {len(names)} numbers, got {tuple(part.numbers.shape)}")
            _check_tensor(tag, part.numbers)
        else:
            for group, number in part.items():
                check_tag(group)
                _check_number(tag, number)
    if (groups is not None) != (GROUP in tag):
        rule = (
            "must contain {group}, because its value has one number per group"
            if groups is not None
            else ("must not contain {group}, because its value is one number")
        )
        raise ValueError(f"the tag {rule}, got {tag!r}")
    return sums, maxes


def _check_number(tag: str, part: object) -> None:
    """Raises TypeError or OverflowError unless the part is one real number on this rank."""
    if isinstance(part, Tensor):
        if part.numel() != 1:
            raise TypeError(
                f"a part of {tag} must be one number, got shape {tuple(part.shape)}; reduce it, as with .sum()"
            )
        _check_tensor(tag, part)
    elif isinstance(part, (int, float, np.number)) and not isinstance(part, np.complexfloating):
        float(part)  # an int may be too large
    else:
        raise TypeError(f"a part of {tag} must be a number or a tensor, got {type(part).__name__}")


def _check_tensor(tag: str, part: Tensor) -> None:
    if isinstance(part, DTensor):
        raise TypeError(f"a part of {tag} must be this rank's number, got a DTensor; use sum_by_group")
    if part.is_complex() or part.is_meta:
        raise TypeError(f"a part of {tag} must be a real number, got {part.dtype} on {part.device}")
