"""Writes steps as lines of JSON, which other programs read without TensorBoard."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.host_values import FinalValue, HParams, HParamsEnd, Text
from tbx_callbacks.runs import json_lines
from tbx_callbacks.runs.folders import JSON_LINES_FILE, absolute, is_remote
from tbx_callbacks.writers.base import Writer

logger = logging.getLogger(__name__)

_RESERVED = frozenset({"step", "wall_time"})


class JsonLinesWriter(Writer):
    """Appends one line a step to `metrics.jsonl` in the run's folder.

        {"step":10,"wall_time":1764420000.5,"train/loss":0.53,"train/learning_rate":2e-05}

    Numbers have full float64 precision; NaN and infinities are the texts "NaN", "Infinity" and "-Infinity". A histogram
    is `{"histogram": {"edges", "counts", "min", "max", "sum", "sum_squares"}}`, a text `{"text": ...}`,
    hyper-parameters are `{"hparams": {...}}`, and the end of the run is `{"status": "succeeded"}` or `"failed"`.
    `tbx_callbacks.runs.read_run` reads the file back. Layouts of TensorBoard's tabs are left out.

    Args:
        log_dir: folder of the run.

    Raises:
        ValueError: the folder is remote.
    """

    def __init__(self, log_dir: str) -> None:
        if is_remote(log_dir):
            raise ValueError(f"log_dir of json_lines must be a local folder, got {log_dir!r}; write to a local one")
        self._left_out = set[str]()
        self._path = os.path.join(absolute(log_dir), JSON_LINES_FILE)

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Appends the values of a step as one line.

        Raises:
            OSError: the file cannot be written.
        """
        fields = {tag: _plain(value) for tag, value in values.items() if type(value) in _PLAIN}
        for name in _RESERVED & fields.keys():
            del fields[name]
            if name not in self._left_out:
                self._left_out.add(name)
                logger.warning(
                    "tag %s is left out of %s: each line has a field of this name; rename it", name, self._path
                )
        if fields:
            json_lines.append(self._path, json_lines.line_of(step, wall_time=time.time(), **fields))

    def purge(self, step: int) -> None:
        """Removes this step and later ones from the file.

        Raises:
            OSError: the file cannot be written.
        """
        json_lines.cut(self._path, step - 1)


def _plain(value: FinalValue) -> Any:
    return _PLAIN[type(value)](value)


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _histogram(value: HistogramCounts) -> dict[str, Any]:
    counted = {
        "edges": [float(edge) for edge in value.edges],
        "counts": [float(count) for count in value.counts],
        "min": value.low,
        "max": value.high,
        "sum": _number(value.total),
        "sum_squares": _number(value.total_squares),
    }
    return {"histogram": counted}


def _hparams(value: HParams) -> dict[str, Any]:
    return {"hparams": {name: _number(one) if type(one) is float else one for name, one in value.values.items()}}


_PLAIN: dict[type, Callable[[Any], Any]] = {
    float: _number,
    HistogramCounts: _histogram,
    Text: lambda value: {"text": value.markdown},
    HParams: _hparams,
    HParamsEnd: lambda value: {"status": "succeeded" if value.succeeded else "failed"},
}
