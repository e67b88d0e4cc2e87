"""Reads the `metrics.csv` of Lightning's CSVLogger, and other CSV files with a column `step` or `epoch`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

import yaml

from tbx_callbacks._text import label, short
from tbx_callbacks.runs.formats.base import LogFormat, Progress, UnreadableError
from tbx_callbacks.runs.formats.fields import (
    EPOCH,
    EPOCHS_AS_STEPS,
    NO_TIME,
    NOT_A_NUMBER,
    csv_number,
    keras_tags,
    step_of,
)
from tbx_callbacks.runs.formats.run_builder import RunBuilder
from tbx_callbacks.runs.series import Run

_FILE, _HPARAMS = "metrics.csv", "hparams.yaml"
_STEP = "step"
_SEVERAL_ROWS = "its epoch has another row after it; such a file needs a column step"
_PROGRESS_LINES = 1000
_LONGEST_HPARAM = 500
_LACKS = ("wall times", "histograms", "texts")


class LightningCsv(LogFormat):
    """A row has the values of one step; empty cells are values that were not logged there.

    Tags are the names of the columns. Hyper-parameters come from `hparams.yaml` beside the file. Without a column
    `step`, a row has the values of one epoch, as in the file of Keras' CSVLogger, whose `val_loss` is `eval/loss`.
    """

    files = _FILE

    def find(self, folder: str, below: Sequence[str], names: Sequence[str]) -> Mapping[str, str]:
        path = os.path.join(folder, _FILE)
        return {"": path} if _FILE in names and _has_steps(path) else {}

    def accepts(self, file: str) -> bool:
        return file.endswith(".csv") and _has_steps(file)

    def read(self, path: str, progress: Progress | None = None) -> Run:
        builder = RunBuilder()
        try:
            size = os.path.getsize(path)
            key, tags = _meanings(columns_of(path))
            with _opened(path) as file:
                for row in _rows(file, builder, lambda done: progress(done, size) if progress else None):
                    _add(builder, row, key, tags)
        except (OSError, csv.Error) as error:
            raise UnreadableError(f"a run's CSV file must be readable, {short(path, 200)} is not: {error}") from error
        if not builder.scalars:
            raise UnreadableError(
                f"a run's CSV file must have rows with a step and numbers, {short(path, 200)} has none"
            )
        builder.hparams = _hparams(os.path.join(os.path.dirname(path), _HPARAMS))
        lacks = (EPOCHS_AS_STEPS, *_LACKS) if key == EPOCH else _LACKS
        return builder.run(source=os.path.basename(path), lacks=lacks)


def columns_of(path: str) -> list[str]:
    """Returns the names of the columns of a CSV file; none of a file that cannot be read."""
    try:
        with _opened(path) as file:
            return next(csv.reader(file), [])
    except (OSError, csv.Error):
        return []


def _meanings(columns: Sequence[str]) -> tuple[str, Mapping[str, str]]:
    """The column of the steps, and the tags of columns that do not have their own names as tags."""
    if _STEP in columns:
        return _STEP, {}
    return EPOCH, keras_tags(columns)


def _opened(path: str) -> TextIO:
    return open(path, encoding="utf-8-sig", errors="replace", newline="")


def _has_steps(path: str) -> bool:
    return not {_STEP, EPOCH}.isdisjoint(columns_of(path))


def _rows(file: TextIO, builder: RunBuilder, on_progress: Any) -> Iterator[dict[str, str]]:
    """Yields the rows. A row with fewer or more cells than the header is left out, such as one still being written."""
    lines = csv.reader(_complete(file))
    header = next(lines, [])
    for number, cells in enumerate(lines):
        if number % _PROGRESS_LINES == 0:
            with suppress(OSError):
                on_progress(os.lseek(file.fileno(), 0, os.SEEK_CUR))
        if len(cells) == len(header):
            yield dict(zip(header, cells, strict=True))
        elif cells:
            builder.left_out.add(f"line {lines.line_num}", "it has another number of cells than the header")


def _complete(file: TextIO) -> Iterator[str]:
    """Yields the lines that end with a line break: the last one may still be written, and cut off in a number."""
    yield from (line for line in file if line.endswith(("\n", "\r")))


def _add(builder: RunBuilder, row: Mapping[str, str], key: str, tags: Mapping[str, str]) -> None:
    """Adds a row, whose step is the number in the column `key`."""
    step = step_of({key: csv_number(row[key])}, (key,))
    if step is None:
        builder.left_out.add("a row", f"its {key} must be a whole number of at least 0, got {short(row[key])}")
        return
    for column, cell in row.items():
        number = None if column in (key, "") else csv_number(cell)
        if number is not None:
            points = builder.scalars[tags.get(column, column)]
            if key == EPOCH and points.last_step == step:
                builder.left_out.add(f"a row of epoch {step}", _SEVERAL_ROWS)
            points.add(step, number, NO_TIME)
        elif cell and column not in (key, ""):
            builder.left_out.add(f"column {label(column)}", NOT_A_NUMBER)


def _hparams(path: str) -> dict[str, bool | float | str]:
    """Returns hyper-parameters as numbers, booleans and texts; none from a file that is no plain YAML."""
    try:
        with open(path, encoding="utf-8") as file:
            loaded = yaml.load(file, Loader=_PlainLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    found: dict[str, bool | float | str] = {}
    if isinstance(loaded, dict):
        for name, value in loaded.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            found[str(name)] = value if isinstance(value, bool) else float(value) if is_number else _short_text(value)
    return found


def _short_text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_HPARAM else f"{text[: _LONGEST_HPARAM - 3]}..."


class _PlainLoader(yaml.SafeLoader):
    """Reads tags of Python objects, which Lightning writes, as their names; it creates no object."""


def _name_of(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> str:  # noqa: ARG001
    return suffix.rpartition(":")[2] or str(node.tag)


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _name_of)
_PlainLoader.add_multi_constructor("!", _name_of)
