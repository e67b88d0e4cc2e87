"""Defines `Check`, the result of one check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tbx_callbacks._stats.types import Number

_MAX_NAMES = 4


@dataclass(frozen=True)
class Check:
    """What a check found.

    `number` counts or measures what the check looks for, in the unit of the check; the rule of the same name knows
    which numbers are wrong. It may be a 0-d tensor on any device; a negative number stands for a check that could not
    judge.
    `details` say more in words: the names of parameters, the steps.
    """

    number: Number
    details: str = ""


def listed(names: Iterable[str]) -> str:
    """Returns the first names and the number of the others, without duplicates."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - _MAX_NAMES} more" if len(distinct) > _MAX_NAMES else ""
    return ", ".join(distinct[:_MAX_NAMES]) + more
