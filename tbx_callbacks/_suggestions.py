"""Builds the suggestions at the end of error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(name: str, known: Iterable[str], *, what: str = "names", most: int = 12) -> str:
    """Returns `did you mean 'x'?` and the known names, for the end of an error message."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    shown = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return (f"did you mean {near[0]!r}? " if near else "") + f"known {what}: {shown}"
