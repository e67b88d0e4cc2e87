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
        self._counted: dict[str, Tensor] = {}
        self._finished: dict[str, Finished] = {}

    def add(self, values: Mapping[str, Value | Histogram | HostValue]) -> None:
        """Takes the values of one metric; histograms are counted now, since tensors will have other contents later."""
        histograms = {tag: value for tag, value in values.items() if isinstance(value, Histogram)}
        if histograms:
            groups = [value.tensors for value in histograms.values()]
            bins = [value.bins for value in histograms.values()]
            counted = histogram.count(groups, histogram.value_ranges(groups), bins)
            self._counted.update(zip(histograms, counted, strict=True))
        for tag, value in values.items():
            if isinstance(value, Value):
                self._values[tag] = value
            elif not isinstance(value, Histogram):
                self._finished[tag] = value

    def numbers(self, facts: Facts) -> dict[str, Finished]:
        """Finished values by tag; those that the facts do not allow, and empty histograms, are left out."""
        finished: dict[str, Finished] = {}
        parts = [[*value.sums(), *value.maxes()] for value in self._values.values()]
        numbers, packed = _fetch([part for found in parts for part in found], list(self._counted.values()))
        rest = iter(numbers)
        for tag, value in self._values.items():
            sums, maxes = [next(rest) for _ in value.sums()], [next(rest) for _ in value.maxes()]
            number = value.result(sums, maxes, facts)
            if number is not None:
                finished[tag] = number
        for tag, found in zip(self._counted, packed, strict=True):
            counts = histogram.finish(found)
            if counts is not None:
                finished[tag] = counts
        return {**finished, **self._finished}


def _fetch(scalars: Sequence[Number], vectors: Sequence[Tensor]) -> tuple[list[float], list[list[float]]]:
    """The parts as numbers: one copy to the host for each device and type that occurs."""
    flats = [part.reshape(1) for part in scalars if isinstance(part, Tensor)] + list(vectors)
    places: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, part in enumerate(flats):
        places.setdefault((part.device, part.dtype), []).append(place)
    found: list[list[float]] = [[] for _ in flats]
    for chosen in places.values():
        together = torch.cat([flats[place] for place in chosen]).tolist()
        for place in chosen:
            size = flats[place].numel()
            found[place], together = together[:size], together[size:]
    rest = iter(found)
    numbers = [float(next(rest)[0]) if isinstance(part, Tensor) else float(part) for part in scalars]
    return numbers, list(rest)
