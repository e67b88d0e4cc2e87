"""Errors that users see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A metric set that cannot be used; the message says where, the rule, the value and the remedy."""


def suggest(name: str, known: Iterable[str], *, what: str = "names", most: int = 12) -> str:
    """`did you mean 'x'?` and the known names, for the end of an error message."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    listed = ", ".join(known[:most]) + (", ..." if len(known) > most else "")
    return (f"did you mean {near[0]!r}? " if near else "") + f"known {what}: {listed}"
