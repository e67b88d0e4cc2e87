"""Defines `Run` and `Series`, which hold the values of a finished or live run over steps."""

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
STATUSES = ("succeeded", "failed")


@dataclass(frozen=True, eq=False)
class Series:
    """One scalar over strictly increasing steps; `steps`, `values`, `wall_times` (seconds since 1970) are `[N]`."""

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
    """The contents of one folder, by tag. `unread` maps truncated or damaged files to their number of unread bytes.

    Only the last image (encoded, as PNG or another format) and the last precision-recall curve (`[2, N]`: precision,
    recall) of each tag are kept. `hparams` has the hyper-parameters that the HParams tab shows. `left_out` names files,
    events and values that could not be read, one sentence each.
    """

    scalars: Mapping[str, Series] = field(default_factory=dict)
    histograms: Mapping[str, Histograms] = field(default_factory=dict)
    texts: Mapping[str, Texts] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    hparams: Mapping[str, bool | float | str] = field(default_factory=dict)
    images: Mapping[str, bytes] = field(default_factory=dict)
    curves: Mapping[str, Floats] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    source: str = ""
    """The file or format that the run was read from; empty for event files, which hold everything."""
    lacks: tuple[str, ...] = ()
    """Kinds of data that the format cannot hold, such as `wall times`."""
    status: str = ""
    """`succeeded` or `failed`, where the end of the training was logged; empty while it runs, or if that is unknown."""

    @property
    def source_sentence(self) -> str:
        """Where the run was read from and what the format cannot hold, as a sentence; empty for event files."""
        if not self.source:
            return ""
        return f"read from {self.source}" + (f", which holds no {', no '.join(self.lacks)}" if self.lacks else "")

    @property
    def is_failed(self) -> bool:
        """Whether the log says that the training has failed, or was interrupted."""
        return self.status == "failed"

    @property
    def failure_sentence(self) -> str:
        """That the training has failed, as a sentence; empty if the log does not say so."""
        return f"The training failed, or was interrupted, after step {self.last_step}." if self.is_failed else ""

    @property
    def last_step(self) -> int:
        """Last step of any scalar; 0 without scalars."""
        return max((int(series.steps[-1]) for series in self.scalars.values() if len(series)), default=0)


class Points(Generic[T]):
    """Points of one tag, added one by one; 24 bytes per scalar.

    As in TensorBoard, a step that does not follow the last one is a restart: points from that step on are removed.
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

    @property
    def last_step(self) -> int:
        """The step of the last point; -1 without points."""
        return self._steps[-1] if self._steps else -1

    def cut(self, step: int) -> None:
        """Removes the points at `step` or later."""
        index = bisect_left(self._steps, step)
        del self._steps[index:], self._values[index:], self._wall_times[index:]

    def thin(self) -> None:
        """Removes every second point; the first one stays."""
        for column in (self._steps, self._values, self._wall_times):
            del column[1::2]

    def pop_first(self) -> tuple[int, T, float]:
        """Removes and returns the first point."""
        return self._steps.pop(0), self._values.pop(0), self._wall_times.pop(0)

    def __len__(self) -> int:
        return len(self._steps)

    def arrays(self) -> tuple[Steps, MutableSequence[T], Floats]:
        """Returns copies of the steps and wall times, and the values themselves."""
        return np.array(self._steps, np.int64), self._values, np.array(self._wall_times)


def scalar_points() -> Points[float]:
    """Returns empty points of a scalar."""
    return Points(array("d"))


def series_of(points: Points[float]) -> Series:
    """Returns a copy of the points as a series."""
    steps, values, wall_times = points.arrays()
    return Series(steps, np.array(values), wall_times)


def listed_points() -> Points[Any]:
    """Returns empty points of histograms or texts."""
    return Points([])
