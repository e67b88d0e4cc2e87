"""Reads labelled texts from `.tsv`, `.csv` and `.jsonl` files row by row. No value changes its type: all are text."""

from __future__ import annotations

import csv
import json
import os
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


class Columns(NamedTuple):
    """Names of the columns with the texts and with the labels."""

    text: str
    label: str


def read_file(path: Path, columns: Columns, *, ending: str | None = None) -> Iterator[Row]:
    """Reads the rows of a file, in order. Blank lines are no rows.

    In `.tsv` files quotes are ordinary characters. `.csv` files use double quotes, doubled inside a quoted text.
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
    for where, fields, lines in _records(path, style, remedy):
        if not header:
            header = [name.strip() for name in fields]
            text_at, label_at = (_position(header, column, where) for column in columns)
            continue
        if len(fields) != len(header):
            raise DataError(f"{where}: must have {len(header)} fields as the header, got {len(fields)}; {remedy}")
        labels.add(fields[label_at].strip())
        for line in lines[1:] if label_at < text_at else lines[:-1]:  # those that the row's label is not in
            inner = [field.strip() for field in line.split(style.delimiter)]
            if len(inner) == len(header) and inner[label_at] in labels:
                raise DataError(
                    f"{where}: a quoted text must not hold whole rows, got {len(lines)} lines such as"
                    f" {reprlib.repr(line)}; close its quote, or use .jsonl for such texts"
                )
        yield Row(where, fields[text_at], fields[label_at])


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
        where = f"{path}, line {reader.line_num + 1}"
        lines.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            reason = str(error).partition(" - ")[0]  # a hint for programmers follows
            raise DataError(f"{where}: must be a valid row, got {reason}; {remedy}") from error
        if fields is None:
            return
        if fields:
            yield where, fields, lines


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
