"""From the values of a step to numbers on the host: packed, so that there is one copy whatever the number of tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tbx_callbacks.stats import histogram
from tbx_callbacks.stats.histogram import HistogramCounts
from tbx_callbacks.values import Facts, Histogram, HostValue, Number, Value

Finished = float | HistogramCounts | HostValue


class Batch:
    """The values of one step, on their way to the host."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}
        self._finished: dict[str, Finished] = {}

    def add(self, values: Mapping[str, Value | Histogram | HostValue]) -> None:
        """Takes the values of one metric; histograms are counted now, since tensors will have other contents later."""
        counted = {tag: _count(value) for tag, value in values.items() if isinstance(value, Histogram)}
        self._finished.update({tag: counts for tag, counts in counted.items() if counts is not None})
        for tag, value in values.items():
            if isinstance(value, Value):
                self._values[tag] = value
            elif not isinstance(value, Histogram):
                self._finished[tag] = value

    def numbers(self, facts: Facts) -> dict[str, Finished]:
        """Finished values by tag; those that the facts do not allow, and empty histograms, are left out."""
        sums = iter(_fetch([part for value in self._values.values() for part in value.sums()]))
        maxes = iter(_fetch([part for value in self._values.values() for part in value.maxes()]))
        finished: dict[str, Finished] = {}
        for tag, value in self._values.items():
            number = value.result([next(sums) for _ in value.sums()], [next(maxes) for _ in value.maxes()], facts)
            if number is not None:
                finished[tag] = number
        return {**finished, **self._finished}


def _count(value: Histogram) -> HistogramCounts | None:
    low, high = histogram.value_range(value.tensors)
    if low > high:
        return None  # nothing finite to count
    counts, total, total_squares = histogram.count(value.tensors, low, high, value.bins)
    return HistogramCounts(tuple(counts.tolist()), low, high, total, total_squares)


def _fetch(parts: Sequence[Number]) -> list[float]:
    """The parts as numbers: one copy to the host for each device and type that occurs."""
    numbers = [0.0 if isinstance(part, Tensor) else float(part) for part in parts]
    places: dict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = {}
    for place, part in enumerate(parts):
        if isinstance(part, Tensor):
            places.setdefault((part.device, part.dtype), []).append((place, part.reshape(())))
    for chosen in places.values():
        for (place, _), number in zip(chosen, torch.stack([part for _, part in chosen]).tolist(), strict=True):
            numbers[place] = float(number)
    return numbers
