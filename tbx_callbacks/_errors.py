"""Describes errors of other people's code in messages."""

from __future__ import annotations

OUTSIDE_ERRORS = (Exception, SystemExit)
"""What code of other people may raise; only an interrupt by the user goes on."""
_MAX_LENGTH = 300


def described(error: BaseException) -> str:
    """Returns an error's repr on one line, at most 300 characters long.

    The error may come from any code: its repr may raise, or may be as long as the data that it holds.
    """
    name = type(error).__name__
    try:
        text = repr(error)
    except BaseException:  # the class may do anything there
        return f"{name} (its text cannot be shown)"
    if len(text) > _MAX_LENGTH:
        text = f"{text[: _MAX_LENGTH - 3]}..."
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
