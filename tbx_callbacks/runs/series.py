"""A run as numbers over steps: what event files hold, and what a live run gathers."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Series:
    """One scalar over steps, which rise strictly; `steps`, `values`, `wall_times` (seconds since 1970) are `[N]`."""

    steps: Steps
    values: Floats
    wall_times: Floats

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, eq=False)
class Histograms:
    """One histogram over steps; `buckets[n]` is `[K, 3]`: left edge, right edge, count."""

    steps: Steps
    buckets: tuple[Floats, ...]
    wall_times: Floats


@dataclass(frozen=True, eq=False)
class Texts:
    """One text over steps."""

    steps: Steps
    values: tuple[str, ...]
    wall_times: Floats


@dataclass(frozen=True, eq=False)
class Run:
    """What one folder holds, by tag. `unread` has the files that are cut or damaged: how many bytes were not read.

    Of images (encoded, as PNG or another format) and of precision-recall curves (`[2, N]`: precision, recall) the last
    of each tag is kept. `hparams` is what the HParams tab shows.
    """

    scalars: Mapping[str, Series] = field(default_factory=dict)
    histograms: Mapping[str, Histograms] = field(default_factory=dict)
    texts: Mapping[str, Texts] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    hparams: Mapping[str, bool | float | str] = field(default_factory=dict)
    images: Mapping[str, bytes] = field(default_factory=dict)
    curves: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def last_step(self) -> int:
        """The last step that any scalar has; 0 without one."""
        return max((int(series.steps[-1]) for series in self.scalars.values() if len(series)), default=0)


class Points(Generic[T]):
    """Points of one tag that are added one by one, 24 bytes a scalar.

    A step that is not after the last one starts again from there, as in TensorBoard: the points from it on are orphans
    of a restart and go.
    """

    def __init__(self, values: MutableSequence[T]) -> None:
        self._values = values
        self._steps, self._wall_times = array("q"), array("d")

    def add(self, step: int, value: T, wall_time: float) -> None:
        """Adds a point."""
        if self._steps and step <= self._steps[-1]:
            self.cut(step)
        self._steps.append(step)
        self._values.append(value)
        self._wall_times.append(wall_time)

    def cut(self, step: int) -> None:
        """Forgets what is at `step` or later."""
        place = bisect_left(self._steps, step)
        del self._steps[place:], self._values[place:], self._wall_times[place:]

    def thin(self) -> None:
        """Forgets every second point; the first one stays."""
        for column in (self._steps, self._values, self._wall_times):
            del column[1::2]

    def pop_first(self) -> tuple[int, T, float]:
        """Forgets the first point, and returns it."""
        return self._steps.pop(0), self._values.pop(0), self._wall_times.pop(0)

    def __len__(self) -> int:
        return len(self._steps)

    def arrays(self) -> tuple[Steps, MutableSequence[T], Floats]:
        """Copies of the steps and the wall times, and the values."""
        return np.array(self._steps, np.int64), self._values, np.array(self._wall_times)


def scalar_points() -> Points[float]:
    """Points of a scalar."""
    return Points(array("d"))


def series_of(points: Points[float]) -> Series:
    """A copy of the points so far; later ones do not change it."""
    steps, values, wall_times = points.arrays()
    return Series(steps, np.array(values), wall_times)


def listed_points() -> Points[Any]:
    """Points of histograms or texts."""
    return Points([])
