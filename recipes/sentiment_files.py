"""Reads labelled texts from `.tsv`, `.csv` and `.jsonl` files row by row. No value changes its type: all are text."""

from __future__ import annotations

import csv
import json
import os
import re
import reprlib
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

LONGEST = 1 << 24
"""Most bytes of a line. It bounds the memory that a damaged file takes."""


class DataError(ValueError):
    """Invalid training data. The message gives the location, the rule, the value and the remedy."""


class Row(NamedTuple):
    """A labelled text, unchecked."""

    where: str
    """Its location, for error messages."""
    text: object
    label: object
    is_blank: bool = False
    """Whether all its fields are blank."""


class Columns(NamedTuple):
    """Names of the columns with the texts and with the labels."""

    text: str
    label: str


def read_file(path: Path, columns: Columns, *, ending: str | None = None) -> Iterator[Row]:
    """Reads the rows of a file, in order. Blank lines are no rows.

    In `.tsv` files quotes are ordinary characters. In `.csv` files a double quote opens a field at its start, closes it
    at its end, and is doubled inside (RFC 4180); all others are errors. A quoted text may have several lines. It is
    refused if every line has as many commas as a row, and one has a label of the file in its place: then two stray
    quotes may hide rows.
    `.jsonl` files have one object a line; numbers stay as they are written.

    Args:
        path: the file.
        columns: the columns to read; others are ignored, and their order does not matter.
        ending: a key of `READERS`; default: the path's own ending.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or a line does not follow the format.
    """
    try:
        yield from READERS[ending or path.suffix](path, columns)
    except OSError as error:
        raise DataError(f"{path} must be a readable file: {error.strerror or error}") from error


def file_ending(name: str) -> str | None:
    """The format of a file by its name, such as `.csv` for `train.csv.gz`; None if there is no reader for it."""
    return next((ending for ending in reversed(PurePath(name).suffixes) if ending in READERS), None)


def shorten(names: Iterable[str]) -> str:
    """A list of names for a message of one line."""
    return textwrap.shorten(", ".join(names), 200, placeholder=" ...") or "nothing"


def check_file(path: Path) -> None:
    """Refuses a folder, a pipe or a broken link: to open a pipe would block.

    Raises:
        DataError: the path is no regular file.
    """
    if os.path.lexists(path) and not path.is_file():
        raise DataError(f"{path} must be a file, got a folder, a pipe, a device or a broken link; replace it")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with their ends. Only a line feed ends a line: texts may hold other separators."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise DataError(f"{path}, line {number}: must have at most {LONGEST} bytes; split the text")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}: must be UTF-8, got other bytes in line {number}; convert it first (iconv -t UTF-8)"
                ) from error
            if "\0" in text:
                raise DataError(f"{path}: must be UTF-8 text, got a NUL character in line {number}; convert it first")
            yield text


def _table(path: Path, columns: Columns, *, style: type[csv.Dialect], remedy: str) -> Iterator[Row]:
    header: list[str] = []
    labels: set[str] = set()
    has_doubtful = False
    for where, fields, lines in _records(path, style, remedy):
        if not any(field.strip() for field in fields):  # spreadsheets write such rows
            yield Row(where, "", "", is_blank=True)
            continue
        if not header:
            header = _names(fields)
            text_at, label_at = (_position(header, column, where) for column in columns)
            continue
        if len(fields) != len(header):
            raise DataError(f"{where}: must have {len(header)} fields as the header, got {len(fields)}; {remedy}")
        if sorted(_names(fields)) == sorted(header):
            raise DataError(
                f"{where}: a row must not repeat the header, got {shorten(_names(fields))}; remove the line"
            )
        labels.add(fields[label_at])
        has_doubtful = has_doubtful or bool(_inner_labels(lines, style, len(header), text_at, label_at))
        yield Row(where, fields[text_at], fields[label_at])
    for where, _, lines in _records(path, style, remedy) if has_doubtful else ():  # now that all labels are known
        if labels.intersection(_inner_labels(lines, style, len(header), text_at, label_at)):
            raise DataError(
                f"{where}: a quoted text must not hold whole rows, got {len(lines)} lines such as"
                f" {reprlib.repr(lines[0])}; close its quote, or use .jsonl for such texts"
            )


def _names(fields: Iterable[str]) -> list[str]:
    """The names of a header; joined files have a byte order mark inside."""
    return [field.strip().lstrip("\ufeff") for field in fields]


def _inner_labels(lines: list[str], style: type[csv.Dialect], width: int, text_at: int, label_at: int) -> list[str]:
    """The labels of the rows that a quoted text would hold; none unless each of its lines looks like a row.

    A text that somebody wrote has a line that does not. A row whose quote was closed by a later row has none.
    """
    if len(lines) == 1:
        return []
    split = [line.rstrip("\r\n").split(style.delimiter) for line in lines]
    if any(len(fields) != width for fields in split):
        return []
    return [fields[label_at] for fields in (split[1:] if label_at < text_at else split[:-1])]  # others than its own


def _records(path: Path, style: type[csv.Dialect], remedy: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """The location, the fields and the lines of each row."""
    lines: list[str] = []  # of the current row

    def remembered() -> Iterator[str]:
        for line in _lines(path):
            lines.append(line)
            yield line

    csv.field_size_limit(LONGEST)
    reader = csv.reader(remembered(), style)
    while True:
        first = reader.line_num + 1
        lines.clear()
        fields, fault = None, None
        try:
            fields = next(reader, None)
        except csv.Error as error:
            fault = 0, str(error).partition(" - ")[0]  # a hint for programmers follows
        if style.quoting != csv.QUOTE_NONE:
            fault = _bad_quote("".join(lines)) or fault
        if fault:
            raise DataError(f"{path}, line {first + fault[0]}: must be a valid row, got {fault[1]}; {remedy}")
        if fields is None:
            return
        if fields:
            yield f"{path}, line {first}", fields, lines


def _bad_quote(row: str) -> tuple[int, str] | None:
    """The first field that breaks RFC 4180's rule for quotes: its line, from 0, and the reason.

    A quote opens a field at its start, and closes it at its end. The csv module takes others as ordinary characters.
    """
    opened = 0
    for part in _QUOTED.finditer(row):
        before, after = row[part.start() - 1 : part.start()], row[part.end() : part.end() + 1]
        if before != '"':  # else a doubled quote
            opened = part.start()
        reason = None
        if before not in ("", ",", "\n", '"'):
            is_spaced = row[: part.start()].rstrip(" \t")[-1:] in ("", ",", "\n")
            reason = f"a double quote {'with a space before it' if is_spaced else 'inside of a field without quotes'}"
        elif not part[1]:
            reason = "a double quote that is never closed"
        elif after not in ("", ",", "\r", "\n", '"'):
            reason = "a quoted field with text after its end"
        if reason:
            return row.count("\n", 0, opened), reason
    return None


def _position(header: list[str], column: str, where: str) -> int:
    if header.count(column) != 1:
        rule = "must have a column" if column not in header else "must have only one column"
        raise DataError(
            f"{where}: {rule} {column!r}, got {shorten(header)}; the first line must name the columns"
            " (see --text-column and --label-column)"
        )
    return header.index(column)


def _json_lines(path: Path, columns: Columns) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(
                line, parse_int=str, parse_float=str, parse_constant=_refuse, object_pairs_hook=_with_unique_keys
            )
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: must be one JSON object, got invalid JSON: {error}; correct it") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: must be one JSON object, got {reprlib.repr(row)}; write one object a line")
        for column in columns:
            if column not in row:
                raise DataError(f"{where}: must have a key {column!r}, got {shorten(row)}; add it to every row")
        yield Row(where, row[columns.text], row[columns.label])


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _with_unique_keys(pairs: Collection[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"a key occurs twice in {shorten(key for key, _ in pairs)}")
    return values


_QUOTED = re.compile(r'"[^"]*("?)')


class _TabSeparated(csv.Dialect):
    delimiter, quoting, lineterminator = "\t", csv.QUOTE_NONE, "\n"
    strict = True


class _CommaSeparated(csv.Dialect):
    delimiter, quoting, lineterminator = ",", csv.QUOTE_MINIMAL, "\n"
    quotechar, doublequote, strict = '"', True, True


READERS: dict[str, Callable[[Path, Columns], Iterator[Row]]] = {
    ".tsv": partial(
        _table, style=_TabSeparated, remedy="a text must hold no tab or line end, and a line must not end with a tab"
    ),
    ".csv": partial(
        _table,
        style=_CommaSeparated,
        remedy="put double quotes around a text with commas, quotes or line ends, and double the quotes in it",
    ),
    ".jsonl": _json_lines,
}
"""Readers by the ending of a file's name."""
