"""Builds a `Run` from values that a format yields one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tbx_callbacks.runs.series import Floats, Histograms, Points, Run, Texts, listed_points, scalar_points, series_of


class LeftOut:
    """Counts what is left out of a run, by reason, and names the first of each."""

    def __init__(self) -> None:
        self._reasons: dict[str, tuple[int, str]] = {}

    def add(self, what: str, reason: str) -> None:
        """Counts one value or event."""
        count, first = self._reasons.get(reason, (0, what))
        self._reasons[reason] = count + 1, first

    def sentences(self) -> tuple[str, ...]:
        """One sentence a reason."""
        return tuple(
            f"{first} is left out: {reason}" if count == 1 else f"{first} and {count - 1:,} more are left out: {reason}"
            for reason, (count, first) in self._reasons.items()
        )


class RunBuilder:
    """Collects the values of a run by tag; fields as in `Run`."""

    def __init__(self) -> None:
        self.scalars: defaultdict[str, Points[float]] = defaultdict(scalar_points)
        self.histograms: defaultdict[str, Points[Floats]] = defaultdict(listed_points)
        self.texts: defaultdict[str, Points[str]] = defaultdict(listed_points)
        self.hparams: dict[str, bool | float | str] = {}
        self.images: dict[str, bytes] = {}
        self.curves: dict[str, Floats] = {}
        self.left_out = LeftOut()
        self.status = ""

    def cut(self, step: int) -> None:
        """Removes the points at `step` or later: a resumed training trains these steps again."""
        self.status = ""
        by_tag: tuple[Mapping[str, Points[Any]], ...] = (self.scalars, self.histograms, self.texts)
        for points in by_tag:
            for points_of_tag in points.values():
                points_of_tag.cut(step)

    def run(
        self,
        *,
        source: str = "",
        lacks: Sequence[str] = (),
        unread: Mapping[str, int] | None = None,
        problems: Sequence[str] = (),
    ) -> Run:
        """Returns the run.

        Args:
            source: see `Run`.
            lacks: see `Run`.
            unread: see `Run`.
            problems: files that were left out, each with its reason.
        """
        return Run(
            {tag: series_of(points) for tag, points in self.scalars.items() if len(points)},
            {tag: Histograms(*_columns(points)) for tag, points in self.histograms.items() if len(points)},
            {tag: Texts(*_columns(points)) for tag, points in self.texts.items() if len(points)},
            unread or {},
            self.hparams,
            self.images,
            self.curves,
            (*(f"{problem} (left out)" for problem in problems), *self.left_out.sentences()),
            source,
            tuple(lacks),
            self.status,
        )


def _columns(points: Points[Any]) -> tuple[Any, tuple[Any, ...], Any]:
    steps, values, wall_times = points.arrays()
    return steps, tuple(values), wall_times
