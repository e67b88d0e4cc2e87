"""Turns values, errors and names from outside into short text that a terminal and a log show as it is."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence

_LONGEST = 60  # characters of a value in a message
_LONGEST_REASON = 400  # characters of an error in a message


class _Bounded(reprlib.Repr):
    """A repr that looks only at the parts of a value that a message can show."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.maxlevel = most, 4
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = self.maxarray = 30
        self.maxother = 4 * most

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: 2 * self.most])

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[: 2 * self.most])

    def repr_int(self, x: int, level: int) -> str:
        """The digits; of a number that Python refuses to write, or that no message can show, its size."""
        bits = x.bit_length()
        return repr(x) if bits <= 4 * self.most else f"an integer of about {int(bits * 0.30103) + 1} digits"

    def repr_dict(self, x: dict[object, object], level: int) -> str:
        """The items in their own order."""
        if level <= 0 or len(x) > self.maxlist:
            return f"{{{len(x)} keys}}"
        return f"{{{', '.join(f'{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}' for k, v in x.items())}}}"

    def repr_instance(self, x: object, level: int) -> str:
        text = repr(x)
        return text if len(text) <= self.maxother else f"{text[: self.maxother]}..."


def short(value: object, most: int = _LONGEST) -> str:
    """The value's repr, at most `most` characters long. It is cut before it is made; one that raises gives the type."""
    return _cut(_guarded(_Bounded(most).repr, value), most)


def label(value: object) -> str:
    """A name as it is, or another value's repr; at most 60 characters long."""
    return _cut(value[: 2 * _LONGEST], _LONGEST) if type(value) is str else short(value)


def words(value: object) -> str:
    """The value's own text, at most 400 characters long; its type if that raises."""
    return _cut(_guarded(str, value), _LONGEST_REASON)


def reason(error: BaseException) -> str:
    """The error's repr on one line, at most 400 characters long; its type if the repr raises."""
    return printable(_cut(_guarded(repr, error), _LONGEST_REASON))


def printable(text: str, keep: str = "") -> str:
    """The text with `?` for each character that may steer a terminal or reorder a line, except for those in `keep`."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in keep else "?" for c in text)


def natural_order(name: str) -> tuple[Sequence[tuple[int, str]], str]:
    """A key that sorts names with numbers by their values: `run2` before `run10`."""
    parts = re.split("([0-9]+)", name)  # texts and numbers by turns, so that only like is compared with like
    stripped = [part.lstrip("0") if index % 2 else part for index, part in enumerate(parts)]
    # An integer of many digits costs time, and Python refuses it: of two numbers the longer one is the greater one.
    return [(len(part) * (index % 2), part) for index, part in enumerate(stripped)], name


def some(names: Sequence[str], most: int, noun: str = "") -> str:
    """The first names, and the number of further ones: `a, b and 3 more`, or `a, b and 3 more runs`."""
    more = len(names) - most
    rest = f" and {more} more" + (f" {plural(noun, is_one=more == 1)}" if noun else "")
    return ", ".join(names[:most]) + (rest if more > 0 else "")


def count(number: int, noun: str) -> str:
    """The number with its noun, in the plural unless it is 1: `1 layer`, `2 layers`, `3 micro-batches`."""
    return f"{number} {plural(noun, is_one=number == 1)}"


def plural(noun: str, *, is_one: bool = False) -> str:
    """The plural of a noun, unless there is one."""
    return noun if is_one else f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def _guarded(convert: object, value: object) -> str:
    try:
        return convert(value)  # type: ignore[operator, no-any-return]
    except KeyboardInterrupt:
        raise
    except BaseException:  # a class from outside may raise anything, SystemExit included
        return f"{type(value).__name__} without a text"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
