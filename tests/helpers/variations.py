"""Splits the variations of a test into those that run always and those that `make test-thorough` adds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def variations(names: Iterable[Any], *usual: Any) -> list[Any]:
    """Marks all names except `usual` as thorough: they vary what the usual ones show, and each takes seconds.

    Raises:
        ValueError: a usual name is not among the names.
    """
    known = list(names)
    if missing := [name for name in usual if name not in known]:
        raise ValueError(f"usual variations must be among {known}, got {missing}")
    return [
        name
        if name in usual
        else pytest.param(*(name if isinstance(name, tuple) else (name,)), marks=pytest.mark.thorough)
        for name in known
    ]
