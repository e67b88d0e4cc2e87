"""Reads the rows that a training recorded: their losses, confidence and variability over the epochs."""

from __future__ import annotations

import glob
import math
import os
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tbx_callbacks._text import label, short
from tbx_callbacks.runs import json_lines
from tbx_callbacks.runs.folders import is_remote

Floats = NDArray[np.float64]

_NAME = re.compile(r"examples\.rank(\d+)\.jsonl")
_MOST_ROWS = 2_000_000
_LONGEST_KEY, _LONGEST_TEXT = 200, 2000


def file_of(folder: str, rank: int) -> str:
    """The file to which a rank writes its rows."""
    return os.path.join(folder, f"examples.rank{rank}.jsonl")


def files_in(folder: str) -> dict[int, str]:
    """The files with rows in a folder, by rank."""
    if is_remote(folder):
        return {}
    paths = glob.glob(os.path.join(glob.escape(folder), "examples.rank*.jsonl"))
    ranks = {int(match[1]): path for path in paths if (match := _NAME.fullmatch(os.path.basename(path)))}
    return dict(sorted(ranks.items()))


@dataclass(frozen=True, eq=False)
class ExampleTable:
    """The rows of a training; arrays of shape `[rows]`, in the order in which the rows were first seen.

    `confidence` is the mean probability of the true class over all times that a row was seen, and `variability` its
    standard deviation (Swayamdipta et al. 2020, arXiv:2009.10795). `correctness` is the share of right predictions.
    """

    keys: Sequence[str]
    losses: Floats
    confidence: Floats
    variability: Floats
    correctness: Floats
    seen: NDArray[np.int64]
    """How often each row was seen."""
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    """The class that was predicted most often, while the loss was finite."""
    groups: Sequence[str] = ()
    """The group of each row; empty without a column of groups."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Texts by key, as far as they were kept."""
    left_out: tuple[str, ...] = ()
    """What could not be read, one sentence each."""

    def __len__(self) -> int:
        return len(self.keys)

    def hardest(self) -> NDArray[np.intp]:
        """Indices of all rows, those with the largest mean loss first."""
        return np.argsort(-self.losses, kind="stable")

    def suspects(self) -> NDArray[np.intp]:
        """Indices of rows that may have a wrong label, the most suspicious first.

        They were seen at least twice. The model gives their label a low probability (below 0.4 in the mean) that
        hardly changes (a variability below 0.25), and mostly predicts another class. Sightings whose loss was NaN or
        Inf do not count.
        """
        is_suspect = (
            (self.seen > 1)
            & (self.confidence < 0.4)
            & (self.variability < 0.25)
            & (self.correctness < 0.5)
            & (self.predicted != self.labels)
        )
        indices = np.flatnonzero(is_suspect)
        return indices[np.argsort(self.confidence[indices], kind="stable")]


def read_examples(folder: str | os.PathLike[str]) -> ExampleTable | None:
    """Reads the rows of all ranks from a run's folder; None if it has none. Damaged lines are left out."""
    rows, left_out = _Rows(), list[str]()
    for path in files_in(os.fspath(folder)).values():
        unreadable = 0

        def count() -> None:
            nonlocal unreadable
            unreadable += 1

        try:
            for fields in json_lines.read(path, count):
                if not rows.add(fields):
                    unreadable += 1
        except (OSError, MemoryError) as error:
            left_out.append(f"{label(os.path.basename(path))}: {short(error)}")
        if unreadable:
            left_out.append(f"{label(os.path.basename(path))}: {unreadable} lines cannot be read")
    return rows.table(tuple(left_out)) if rows.keys else None


class _Rows:
    """Adds up the lines of all files."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self._index, self._steps, self._labels, self._predicted = (array("q") for _ in range(4))
        self._losses = array("d")
        self._groups: dict[int, str] = {}
        self._texts: dict[str, str] = {}

    def add(self, fields: Mapping[str, Any]) -> bool:
        """Adds a line; returns whether it is one."""
        columns = [fields.get(name) for name in ("rows", "losses", "labels", "predicted")]
        sizes = {len(column) if isinstance(column, list) else -1 for column in columns}
        if len(sizes) != 1 or -1 in sizes:
            return False
        keys, losses, labels, predicted = cast("list[list[Any]]", columns)
        are_numbers = all(type(loss) in (float, int, type(None)) for loss in losses)
        are_classes = all(type(each) is int and abs(each) < 2**53 for each in (*labels, *predicted))
        if not are_numbers or not are_classes or not all(isinstance(key, str) for key in keys):
            return False
        if fields["step"] >= 2**53:
            return False
        indices = [self._number_of(key[:_LONGEST_KEY]) for key in keys]
        self._index.extend(indices)
        self._steps.extend([fields["step"]] * len(keys))
        self._losses.extend(map(_number, losses))
        self._labels.extend(labels)
        self._predicted.extend(predicted)
        groups, texts = fields.get("groups"), fields.get("texts")
        if isinstance(groups, list) and len(groups) == len(keys):
            self._groups.update({i: str(name)[:_LONGEST_KEY] for i, name in zip(indices, groups, strict=True)})
        if isinstance(texts, dict):
            self._texts.update({key[:_LONGEST_KEY]: str(text)[:_LONGEST_TEXT] for key, text in texts.items()})
        return True

    def _number_of(self, key: str) -> int:
        if key in self.keys or len(self.keys) < _MOST_ROWS:
            return self.keys.setdefault(key, len(self.keys))
        return -1

    def table(self, left_out: tuple[str, ...]) -> ExampleTable | None:
        """The rows of all lines."""
        index, steps = np.array(self._index, np.int64), np.array(self._steps, np.int64)
        losses = np.array(self._losses)
        labels, predicted = np.array(self._labels, np.int64), np.array(self._predicted, np.int64)
        kept = index >= 0
        order = np.argsort(steps[kept], kind="stable")
        index, losses, labels, predicted = (each[kept][order] for each in (index, losses, labels, predicted))
        number = len(self.keys)
        with np.errstate(all="ignore"):
            finite: Floats = np.isfinite(losses).astype(np.float64)
            probabilities = np.exp(-losses)
            counts = np.bincount(index, finite, minlength=number)

            def mean(values: NDArray[Any]) -> Floats:
                return np.bincount(index, np.where(finite > 0, values, 0.0), minlength=number) / counts

            confidence = mean(probabilities)
            variability = np.sqrt(mean((probabilities - confidence[index]) ** 2))
            correctness = np.nan_to_num(mean(predicted == labels))
            mean_losses = mean(losses)
        mean_losses = np.where(counts > 0, mean_losses, np.inf)  # a row whose loss was never finite is the hardest
        last_labels = np.zeros(number, np.int64)
        last_labels[index] = labels  # the last of equal indices stays
        most = _most_frequent(index, predicted, finite > 0, number)
        groups = [self._groups.get(i, "") for i in range(number)] if self._groups else []
        return ExampleTable(
            list(self.keys), mean_losses, confidence, variability, correctness, counts.astype(np.int64), last_labels,
            most, groups, self._texts, left_out,
        )  # fmt: skip


def _most_frequent(
    index: NDArray[np.int64], classes: NDArray[np.int64], counted: NDArray[np.bool_], number: int
) -> NDArray[np.int64]:
    """The class that occurs most often for each row among those that are counted, or among all if none is."""
    most = np.zeros(number, np.int64)
    for chosen in (np.ones_like(counted), counted):
        pairs, times = np.unique(np.stack([index[chosen], classes[chosen]]), axis=1, return_counts=True)
        order = np.argsort(times, kind="stable")
        most[pairs[0][order]] = pairs[1][order]  # the largest count stays
    return most


def _number(loss: float | None) -> float:
    try:
        return math.nan if loss is None else float(loss)
    except OverflowError:
        return math.inf
