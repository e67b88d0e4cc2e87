"""Keeps a bounded history of the run for the rules."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping

import numpy as np

from tbx_callbacks.metrics.host_values import FinalValue, Text
from tbx_callbacks.runs.series import Points, Run, Series, Texts, listed_points, scalar_points, series_of

_MOST = 128 * 2**20  # bytes of event files that are read again, in a few seconds


def read_history(folder: str) -> Run | None:
    """The run in a folder; None where it cannot be read here: without TensorBoard, from a store, or too large."""
    files = glob.glob(os.path.join(glob.escape(folder), "*tfevents*"))
    try:
        if not files or sum(map(os.path.getsize, files)) > _MOST:
            return None
        from tbx_callbacks.runs.reader import read_run

        return read_run(folder)
    except (ImportError, OSError, ValueError):
        return None


_OLD, _RECENT = 500, 100  # points of a tag, 14 KB
_TEXTS = 20  # of a tag; the first ones say where something began


class TagHistory:
    """One tag: the latest `recent` points, and of those before them so many, evenly spread, as `old` allows.

    Rules read what has just happened in every detail, and shares of the whole run as they are.
    """

    def __init__(self, old: int = _OLD, recent: int = _RECENT) -> None:
        self._most, self._window = old, recent
        self._old, self._recent = scalar_points(), scalar_points()
        self._stride, self._aged, self._last_old = 1, 0, -1

    def add(self, step: int, value: float, wall_time: float) -> None:
        """Adds a point; a step that is not after the last one starts again from there."""
        if step <= self._last_old:
            self._old.cut(step)
        self._recent.add(step, value, wall_time)
        if len(self._recent) > self._window:
            first = self._recent.pop_first()
            if self._aged % self._stride == 0:
                self._old.add(*first)
                self._last_old = first[0]
            self._aged += 1
            if len(self._old) > self._most:
                self._old.thin()
                self._stride *= 2

    def series(self) -> Series:
        """A copy of the points."""
        old, recent = series_of(self._old), series_of(self._recent)
        if not len(old):
            return recent
        return Series(
            np.concatenate([old.steps, recent.steps]),
            np.concatenate([old.values, recent.values]),
            np.concatenate([old.wall_times, recent.wall_times]),
        )


class RunHistory(Mapping[str, Series]):
    """Scalars by tag, as series that are made when they are asked for."""

    def __init__(self, *, old: int = _OLD, recent: int = _RECENT) -> None:
        self._sizes = old, recent
        self._tracks: dict[str, TagHistory] = {}
        self._texts: dict[str, Points[str]] = {}
        self._made: dict[str, Series] = {}

    def record(self, step: int, values: Mapping[str, FinalValue], wall_time: float) -> None:
        """Adds what was written at a step, less what no rule reads (histograms)."""
        for tag, value in values.items():
            if isinstance(value, (int, float)):
                if tag not in self._tracks:
                    self._tracks[tag] = TagHistory(*self._sizes)
                self._tracks[tag].add(step, value, wall_time)
                self._made.pop(tag, None)
            elif isinstance(value, Text) and len(texts := self._texts.setdefault(tag, listed_points())) < _TEXTS:
                texts.add(step, value.markdown, wall_time)

    def run(self) -> Run:
        """The run so far; it changes when something is added."""
        texts = {}
        for tag, points in self._texts.items():
            steps, values, wall_times = points.arrays()
            texts[tag] = Texts(steps, tuple(values), wall_times)
        return Run(self, texts=texts)

    def __getitem__(self, tag: str) -> Series:
        if tag not in self._made:
            self._made[tag] = self._tracks[tag].series()
        return self._made[tag]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tracks)

    def __len__(self) -> int:
        return len(self._tracks)
