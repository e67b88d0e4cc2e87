"""Keeps a bounded history of the run for the rules."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping

import numpy as np

from tbx_callbacks.metrics.host_values import FinalValue, Text
from tbx_callbacks.runs.series import Points, Run, Series, Texts, listed_points, scalar_points, series_of

_MAX_BYTES = 128 * 2**20  # of event files to read back; takes a few seconds


_MAX_OLD, _MAX_RECENT = 500, 100  # points per tag, 14 KB
_MAX_TEXTS = 20  # per tag; the first ones show where something began


def read_history(folder: str) -> Run | None:
    """Reads the run in a folder.

    Returns:
        The run; None without TensorBoard, for a remote folder, and for event files above the size limit.
    """
    files = glob.glob(os.path.join(glob.escape(folder), "*tfevents*"))
    try:
        if not files or sum(map(os.path.getsize, files)) > _MAX_BYTES:
            return None
        from tbx_callbacks.runs.reader import read_run

        return read_run(folder)
    except (ImportError, OSError, ValueError):
        return None


class TagHistory:
    """The points of one tag: the latest `recent` points, and at most `old` earlier ones, evenly spaced.

    Rules read recent events in full detail, and shares of the whole run without bias.
    """

    def __init__(self, old: int = _MAX_OLD, recent: int = _MAX_RECENT) -> None:
        self._max_old, self._max_recent = old, recent
        self._old, self._recent = scalar_points(), scalar_points()
        self._stride, self._num_aged, self._last_old = 1, 0, -1

    def add(self, step: int, value: float, wall_time: float) -> None:
        """Adds a point. A step that is not after the last one replaces the points from there on."""
        if step <= self._last_old:
            self._old.cut(step)
        self._recent.add(step, value, wall_time)
        if len(self._recent) > self._max_recent:
            first = self._recent.pop_first()
            if self._num_aged % self._stride == 0:
                self._old.add(*first)
                self._last_old = first[0]
            self._num_aged += 1
            if len(self._old) > self._max_old:
                self._old.thin()
                self._stride *= 2

    def series(self) -> Series:
        """Returns a copy of the points."""
        old, recent = series_of(self._old), series_of(self._recent)
        if not len(old):
            return recent
        return Series(
            np.concatenate([old.steps, recent.steps]),
            np.concatenate([old.values, recent.values]),
            np.concatenate([old.wall_times, recent.wall_times]),
        )


class RunHistory(Mapping[str, Series]):
    """Scalars by tag, as series that are built on access."""

    def __init__(self, *, old: int = _MAX_OLD, recent: int = _MAX_RECENT) -> None:
        self._sizes = old, recent
        self._tags: dict[str, TagHistory] = {}
        self._texts: dict[str, Points[str]] = {}
        self._series: dict[str, Series] = {}

    def record(self, step: int, values: Mapping[str, FinalValue], wall_time: float) -> None:
        """Adds the values written at a step, except those that no rule reads (histograms)."""
        for tag, value in values.items():
            if isinstance(value, (int, float)):
                if tag not in self._tags:
                    self._tags[tag] = TagHistory(*self._sizes)
                self._tags[tag].add(step, value, wall_time)
                self._series.pop(tag, None)
            elif isinstance(value, Text) and len(texts := self._texts.setdefault(tag, listed_points())) < _MAX_TEXTS:
                texts.add(step, value.markdown, wall_time)

    def run(self) -> Run:
        """Returns the run so far; it changes when values are added."""
        texts = {}
        for tag, points in self._texts.items():
            steps, values, wall_times = points.arrays()
            texts[tag] = Texts(steps, tuple(values), wall_times)
        return Run(self, texts=texts)

    def __getitem__(self, tag: str) -> Series:
        if tag not in self._series:
            self._series[tag] = self._tags[tag].series()
        return self._series[tag]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tags)

    def __len__(self) -> int:
        return len(self._tags)
