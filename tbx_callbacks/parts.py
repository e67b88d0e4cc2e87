"""Values on the host, taken apart into what is merged over ranks, and put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from tbx_callbacks.host_values import HostValue
from tbx_callbacks.stats import histogram
from tbx_callbacks.stats.histogram import MOST_BINS, HistogramCounts
from tbx_callbacks.values import Facts, Value

Finished = float | HistogramCounts | HostValue
AXIS = "axis:"
"""Begins the names under which a step says how far it is from the last one; no tag holds a colon."""
_PLACES = tuple(map(str, range(2 + MOST_BINS)))


@dataclass
class Part:
    """What one rank knows of a tag: parts that are added over ranks, by name, and those of which the largest counts."""

    value: Value | None
    """Turns merged parts into the number; None for a histogram."""
    sums: dict[str, float]
    maxes: dict[str, float] = field(default_factory=dict)
    owner: str = ""
    """The metric, where it may fail on another rank."""

    def finish(self, facts: Facts) -> Finished | None:
        """The number, from parts that are merged."""
        if self.value is None:
            low, high = -self.maxes["low"], self.maxes["high"]
            return histogram.finish([low, high, *self.sums.values()])
        return self.value.result(list(self.sums.values()), list(self.maxes.values()), facts)

    def shape(self) -> Part:
        """The same without numbers: what another rank needs to know of it."""
        return Part(_empty(self.value), dict.fromkeys(self.sums, 0.0), dict.fromkeys(self.maxes, 0.0), self.owner)


Parts = dict[str, Part]


def finish(parts: Mapping[str, Part], facts: Facts) -> dict[str, Finished]:
    """Finished values by tag; those that the facts do not allow, and empty histograms, are left out."""
    found = {tag: part.finish(facts) for tag, part in parts.items()}
    return {tag: value for tag, value in found.items() if value is not None}


def histogram_part(packed: Sequence[float], owner: str = "") -> Part:
    """The part of `histogram.count`'s numbers."""
    low, high, *rest = packed
    return Part(None, dict(zip(_PLACES, rest, strict=False)), {"low": -low, "high": high}, owner)


def filled(
    tag: str, part: Part, layout: Part, added: Mapping[tuple[str, str], float], most: Mapping[tuple[str, str], float]
) -> Part:
    """A part with the merged numbers, by tag and name, of all ranks, which may know more names than this one."""
    value = None if part.value is None else part.value.widened(list(layout.sums))
    given = {} if value is None else value.sums()
    names = list(given) if isinstance(given, Mapping) and given else list(layout.sums)
    maxes = {name: most[tag, name] for name in layout.maxes}
    return Part(value, {name: added[tag, name] for name in names}, maxes, layout.owner)


def names_of(given: Sequence[Any] | Mapping[str, Any]) -> list[str]:
    """Names of a value's parts: their own, or their places."""
    return list(given) if isinstance(given, Mapping) else [str(place) for place in range(len(given))]


def _empty(thing: Any) -> Any:
    """A copy that holds no tensors: only its shape matters, since its parts travel as numbers."""
    if isinstance(thing, Tensor):
        return 0.0
    if isinstance(thing, Mapping):
        return {key: _empty(value) for key, value in thing.items()}
    if isinstance(thing, tuple):
        return tuple(map(_empty, thing))
    if is_dataclass(thing) and not isinstance(thing, type):
        return replace(thing, **{each.name: _empty(getattr(thing, each.name)) for each in fields(thing) if each.init})
    return thing
