"""What a run has written so far, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tbx_callbacks.parts import Finished
from tbx_callbacks.series import Points, Run, Series, Texts, listed_points, scalar_points, series_of
from tbx_callbacks.values import Text

_POINTS, _TEXTS = 1000, 20  # of a tag: 24 KB; of a text the first ones say where something began


class Memory(Mapping[str, Series]):
    """Scalars by tag, as series that are made when they are asked for.

    A tag that has `most` points loses every second one: what is recent is there at its full resolution, what is older
    the thinner the older it is.
    """

    def __init__(self, most: int = _POINTS) -> None:
        self._most = most
        self._points: dict[str, Points[float]] = {}
        self._texts: dict[str, Points[str]] = {}
        self._made: dict[str, Series] = {}

    def take(self, step: int, values: Mapping[str, Finished], wall_time: float) -> None:
        """Adds what was written at a step, less what no rule reads (histograms)."""
        for tag, value in values.items():
            if isinstance(value, (int, float)):
                points = self._points.setdefault(tag, scalar_points())
                points.add(step, value, wall_time)
                self._made.pop(tag, None)
                if len(points) > self._most:
                    points.thin()
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
            self._made[tag] = series_of(self._points[tag])
        return self._made[tag]

    def __iter__(self) -> Iterator[str]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)
