"""Splits a logged text into the Markdown tables that it contains and the text around them."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

_DELIMITER = re.compile(r"\s{0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")
_FENCE = re.compile(r"\s{0,3}(```|~~~)")
_CELL_END = re.compile(r"(?<!\\)\|")
_MARKUP = re.compile(r"\\([\\`*_{}\[\]()#+.!|~<>-])|\*\*|`")  # no __: it belongs to identifiers
_MAX_ROWS = 400


@dataclass(frozen=True)
class TextTable:
    """A table of plain texts; `right` holds the indices of right-aligned columns, `left_out` a number of rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    left_out: int = 0


def blocks(text: str) -> list[TextTable | str]:
    """The tables of a Markdown text, as GitHub defines them, and the other text, in order.

    A table in a fenced block of code is text. A short row gets empty cells; surplus cells join the last one.
    """
    lines, found, before = text.split("\n"), list[TextTable | str](), list[str]()
    index, is_code = 0, False
    while index < len(lines):
        is_code ^= bool(_FENCE.match(lines[index]))
        end = index if is_code else _table_end(lines, index)
        if end == index:
            before.append(lines[index])
            index += 1
            continue
        found += _text_of(before)
        found.append(_table(lines[index:end]))
        before, index = [], end
    return [*found, *_text_of(before)]


def _text_of(lines: Sequence[str]) -> list[str]:
    text = "\n".join(lines).strip("\n")
    return [text] if text.strip() else []


def _table_end(lines: Sequence[str], start: int) -> int:
    """The index after the table that starts here; `start` if none does."""
    if start + 1 >= len(lines) or "|" not in lines[start] or not _DELIMITER.fullmatch(lines[start + 1]):
        return start
    if "|" not in lines[start + 1] or len(_cells(lines[start])) != len(_cells(lines[start + 1])):
        return start
    return next((n for n in range(start + 2, len(lines)) if "|" not in lines[n]), len(lines))


def _table(lines: Sequence[str]) -> TextTable:
    head = tuple(map(_plain, _cells(lines[0])))
    sides = _cells(lines[1])
    rows = [_row(_cells(line), len(head)) for line in lines[2 : 2 + _MAX_ROWS]]
    right = frozenset(n for n, side in enumerate(sides) if side.endswith(":") and not side.startswith(":"))
    return TextTable(head, tuple(rows), right, max(0, len(lines) - 2 - _MAX_ROWS))


def _row(cells: Sequence[str], width: int) -> tuple[str, ...]:
    shown = [*cells[: width - 1], " | ".join(cells[width - 1 :])]
    return tuple(map(_plain, shown)) + ("",) * (width - len(shown))


def _cells(line: str) -> list[str]:
    """The cells of a row, without the bars at its ends."""
    inner = line.strip().removeprefix("|")
    cells = [cell.strip() for cell in _CELL_END.split(inner)]
    return cells[:-1] if len(cells) > 1 and not cells[-1] else cells


def _plain(cell: str) -> str:
    """The cell's text without emphasis, marks of code, escapes and entities; whatever is HTML stays text."""
    return html.unescape(_MARKUP.sub(lambda match: match[1] or "", cell))
