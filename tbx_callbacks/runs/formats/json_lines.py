"""Reads JSON lines: the `metrics.jsonl` of this package's writer, and logs of others with a step in each line."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from tbx_callbacks._text import short
from tbx_callbacks.runs import json_lines
from tbx_callbacks.runs.event_values import drawn_buckets, named
from tbx_callbacks.runs.formats.base import LogFormat, Progress, UnreadableError
from tbx_callbacks.runs.formats.fields import (
    EPOCH,
    EPOCHS_AS_STEPS,
    NOT_A_NUMBER,
    csv_number,
    keras_tags,
    number_of,
    step_of,
    time_of,
)
from tbx_callbacks.runs.formats.run_builder import RunBuilder
from tbx_callbacks.runs.series import STATUSES, Run

_STEPS = (  # best first: `step` may begin again in each epoch, and `_step` of W&B counts calls
    "global_step",
    "train/global_step",
    "trainer/global_step",
    "step",
    "_step",
    "train_step",
    "iteration",
    "iter",
    "steps",
    "current_steps",
)
_EPOCHS = (EPOCH,)
_SEVERAL_LINES = "its epoch has another value after it; such a file needs a field step"
_TIMES = ("wall_time", "timestamp", "_timestamp", "created_at", "time", "ts")
_STATUS = "status"
_SNIFFED_LINES = 20
_ROWS = "examples.rank*.jsonl"  # rows of the training data, which a metric keeps beside a run
_LACKS_OF_OTHERS = ("histograms", "texts")


class JsonLines(LogFormat):
    """One line of JSON a step, such as `{"step": 10, "train/loss": 0.5}`. Nested objects are flattened with `/`.

    In a file without steps, a line has the values of one epoch, as in `{"epoch": 1, "train/loss": 0.5}`.

    Args:
        pattern: the names of files that count as runs; others must be named by their path.
    """

    def __init__(self, pattern: str) -> None:
        self.files = self._pattern = pattern
        self.is_partial = "*" in pattern

    def find(self, folder: str, below: Sequence[str], names: Sequence[str]) -> Mapping[str, str]:
        matching = [name for name in names if fnmatch.fnmatchcase(name, self._pattern)]
        paths = {name: os.path.join(folder, name) for name in matching if not fnmatch.fnmatchcase(name, _ROWS)}
        runs = {name.rpartition(".")[0]: path for name, path in paths.items() if _is_log(path)}
        return {"": next(iter(runs.values()))} if len(runs) == 1 else runs

    def accepts(self, file: str) -> bool:
        return _is_log(file)

    def read(self, path: str, progress: Progress | None = None) -> Run:
        builder, is_ours = RunBuilder(), False
        try:
            size = os.path.getsize(path)
            if progress:
                progress(0, size)
            keys = _step_keys(path)
            tags = keras_tags(list(chain.from_iterable(first_lines(path)))) if keys == _EPOCHS else {}
            for fields in json_lines.read_objects(path, lambda: builder.left_out.add("a line", "it is no JSON object")):
                is_ours |= _add(builder, fields, keys, tags)
            if progress:
                progress(size, size)
        except OSError as error:
            raise UnreadableError(f"a run's file must be readable, but {short(path, 200)} is not: {error}") from error
        lacks = () if is_ours else _LACKS_OF_OTHERS
        lacks = (EPOCHS_AS_STEPS, *lacks) if keys == _EPOCHS else lacks
        run = builder.run(source=os.path.basename(path), lacks=lacks)
        if not (run.scalars or run.histograms or run.texts):
            raise UnreadableError(
                f"a file of JSON lines must have lines with a step and a number, but {short(path, 200)} has none"
            )
        return run


def _is_log(path: str) -> bool:
    """Whether one of the first lines has a step, or an epoch, and a number: other files hold data."""
    try:
        return _has_numbers(path, _STEPS) or _has_numbers(path, _EPOCHS)
    except OSError:
        return False


def _step_keys(path: str) -> Sequence[str]:
    """The names of steps in a file; those of epochs if none of its first lines has a step."""
    return _EPOCHS if not _has_numbers(path, _STEPS) and _has_numbers(path, _EPOCHS) else _STEPS


def _has_numbers(path: str, keys: Sequence[str]) -> bool:
    """Whether one of the first lines has a step under one of the keys, and a number beside it."""
    for flat in first_lines(path):
        key = _step_key(flat, keys)
        if key is not None and any(number_of(value) is not None for name, value in flat.items() if name != key):
            return True
    return False


def first_lines(path: str) -> Iterator[dict[str, Any]]:
    """Yields the first lines of a file that are objects, as flat fields.

    Raises:
        OSError: the file cannot be read.
    """
    for _, fields in zip(range(_SNIFFED_LINES), json_lines.read_objects(path, lambda: None), strict=False):
        yield dict(_flat(fields))


def _step_key(fields: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    if keys == _STEPS and "step" in fields and "wall_time" in fields:  # the writer's lines have both
        keys = ("step",)
    return next((key for key in keys if step_of(fields, (key,)) is not None), None)


def _add(builder: RunBuilder, fields: Mapping[str, Any], keys: Sequence[str], tags: Mapping[str, str]) -> bool:
    """Adds a line; returns whether it has a value that only this package's writer writes."""
    flat, is_ours = dict(_flat(fields)), False
    key = _step_key(flat, keys)
    if key is None:
        builder.left_out.add("a line", "it has no epoch" if keys == _EPOCHS else "it has no step")
        return False
    step = step_of(flat, (key,)) or 0
    time_key, wall_time = time_of(flat, _TIMES)
    for name, value in flat.items():
        if name in (key, time_key):
            continue
        tag = tags.get(name, name)
        number = number_of(value)
        if number is not None:
            if key == EPOCH and builder.scalars[tag].last_step == step:
                builder.left_out.add(named(tag, step), _SEVERAL_LINES)
            builder.scalars[tag].add(step, number, wall_time)
        elif tag == _STATUS and value in STATUSES:
            builder.status = value
        elif isinstance(value, str) and csv_number(value) is not None:
            builder.left_out.add(named(tag, step), NOT_A_NUMBER)
        elif isinstance(value, Mapping):
            is_ours = True
            try:
                _add_object(builder, tag, step, wall_time, value)
            except (ValueError, TypeError, KeyError):
                builder.left_out.add(named(tag, step), "it is no histogram or text as the writer stores them")
    return is_ours


def _add_object(builder: RunBuilder, tag: str, step: int, wall_time: float, value: Mapping[str, Any]) -> None:
    if "histogram" in value:
        histogram = value["histogram"]
        edges, counts = np.array(histogram["edges"], np.float64), np.array(histogram["counts"], np.float64)
        buckets = drawn_buckets(counts, edges[1:], float(histogram["min"]), float(histogram["max"]))
        builder.histograms[tag].add(step, buckets, wall_time)
    elif "text" in value:
        builder.texts[tag].add(step, str(value["text"]), wall_time)
    elif "hparams" in value:
        kinds = (bool, int, float, str)
        named_values = {str(name): one for name, one in value["hparams"].items() if isinstance(one, kinds)}
        builder.hparams = {name: float(one) if type(one) is int else one for name, one in named_values.items()}
        builder.status = ""
    elif value.get(_STATUS) in STATUSES:
        builder.status = value[_STATUS]


def _flat(fields: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields the fields; those of nested objects as `outer/inner`, except objects that are one value."""
    for name, value in fields.items():
        is_value = isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in json_lines.OBJECTS
        if isinstance(value, Mapping) and not is_value and depth < 4:
            yield from _flat(value, f"{prefix}{name}/", depth + 1)
        else:
            yield f"{prefix}{name}", value
