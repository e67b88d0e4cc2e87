"""Names the logs that cannot be read, because their rows or lines have no step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from tbx_callbacks._text import short
from tbx_callbacks.runs.folders import JSON_LINES_FILE
from tbx_callbacks.runs.formats.base import LogFormat, Progress, UnreadableError
from tbx_callbacks.runs.formats.fields import number_of
from tbx_callbacks.runs.formats.json_lines import first_lines
from tbx_callbacks.runs.formats.lightning_csv import columns_of
from tbx_callbacks.runs.series import Run

_CSV_FILE = "metrics.csv"
_MOST_NAMED = 8


class WithoutSteps(LogFormat):
    """A file with the name of a log, without a step or an epoch; it comes last, and reading it tells what it lacks."""

    files, is_partial = _CSV_FILE, True

    def find(self, folder: str, below: Sequence[str], names: Sequence[str]) -> Mapping[str, str]:
        for name in (JSON_LINES_FILE, _CSV_FILE):
            path = os.path.join(folder, name)
            if name in names and _fields(path):
                return {"": path}
        return {}

    def accepts(self, file: str) -> bool:
        return bool(_fields(file))

    def read(self, path: str, progress: Progress | None = None) -> Run:
        fields = _fields(path)
        named = ", ".join(short(name) for name in fields[:_MOST_NAMED]) + ", ..." * (len(fields) > _MOST_NAMED)
        kind, whole = ("column", "row") if path.endswith(".csv") else ("field", "line")
        raise UnreadableError(
            f"a log must have a {kind} step or epoch, but {short(path, 200)} has only {named}; log a whole number as"
            f" step in each {whole}"
        )


def _fields(path: str) -> list[str]:
    """The columns of a CSV file, or the fields of JSON lines with numbers; none of another file."""
    if path.endswith(".csv"):
        return [name for name in columns_of(path) if name]
    if not path.endswith(".jsonl"):
        return []
    try:
        return list(dict.fromkeys(name for flat in first_lines(path) for name in flat if _has_number(flat)))
    except OSError:
        return []


def _has_number(flat: Mapping[str, object]) -> bool:
    return any(number_of(value) is not None for value in flat.values())
