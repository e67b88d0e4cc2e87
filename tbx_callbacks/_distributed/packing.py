"""Packs the values of a step into flat vectors, and unpacks merged ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from tbx_callbacks._stats import histogram
from tbx_callbacks._stats.flat import flat
from tbx_callbacks._stats.histogram import MOST_BINS
from tbx_callbacks._stats.host_copy import HostCopy
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.host_values import FinalValue, HostValue
from tbx_callbacks.metrics.values import Histogram, StepInfo, Sum, Value

_PLACES = tuple(map(str, range(2 + MOST_BINS)))


@dataclass
class Partial:
    """What one rank knows of a tag: parts that are added over ranks, by name, and those of which the largest counts."""

    value: Value | None
    """Turns merged parts into the number; None for a histogram."""
    sums: dict[str, float]
    maxes: dict[str, float] = field(default_factory=dict)
    owner: str = ""
    """The metric, where it may fail on another rank."""

    def result(self, step_info: StepInfo) -> FinalValue | None:
        """The number, from parts that are merged."""
        if self.value is None:
            low, high = -self.maxes["low"], self.maxes["high"]
            return histogram.finish([low, high, *self.sums.values()])
        return self.value.result(list(self.sums.values()), list(self.maxes.values()), step_info)

    def empty_like(self) -> Partial:
        """The same without numbers: what another rank needs to know of it."""
        return Partial(_empty(self.value), dict.fromkeys(self.sums, 0.0), dict.fromkeys(self.maxes, 0.0), self.owner)


Partials = dict[str, Partial]


def finish(parts: Mapping[str, Partial], step_info: StepInfo) -> dict[str, FinalValue]:
    """Finished values by tag; those that the facts do not allow, and empty histograms, are left out."""
    found = {tag: part.result(step_info) for tag, part in parts.items()}
    return {tag: value for tag, value in found.items() if value is not None}


def histogram_part(packed: Sequence[float], owner: str = "") -> Partial:
    """The part of `histogram.count`'s numbers."""
    low, high, *rest = packed
    return Partial(None, dict(zip(_PLACES, rest, strict=False)), {"low": -low, "high": high}, owner)


def filled(
    tag: str,
    part: Partial,
    layout: Partial,
    added: Mapping[tuple[str, str], float],
    most: Mapping[tuple[str, str], float],
) -> Partial:
    """A part with the merged numbers, by tag and name, of all ranks, which may know more names than this one."""
    value = None if part.value is None else part.value.widened(list(layout.sums))
    given = {} if value is None else value.sums()
    names = list(given) if isinstance(given, Mapping) and given else list(layout.sums)
    maxes = {name: most[tag, name] for name in layout.maxes}
    return Partial(value, {name: added[tag, name] for name in names}, maxes, layout.owner)


def names_of(given: Sequence[Any] | Mapping[str, Any]) -> list[str]:
    """Names of a value's parts: their own, or their places."""
    return list(given) if isinstance(given, Mapping) else [str(index) for index in range(len(given))]


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


_FAILED = "failed:"  # no tag holds a colon
Agree = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class PackedValues:
    """The numbers of a step, whose copies to the host have begun."""

    def __init__(
        self,
        values: Mapping[str, Value],
        counted: Mapping[str, Tensor],
        owners: Mapping[str, str],
        own: PackedValues | None = None,
    ) -> None:
        self._local = own
        self._values, self._counted, self._owners = values, list(counted), owners
        self._sums = {tag: value.sums() for tag, value in values.items()}
        self._maxes = {tag: value.maxes() for tag, value in values.items()}
        scalars = [part for tag in values for part in (*_numbers(self._sums[tag]), *self._maxes[tag])]
        self._copy = HostCopy(scalars, list(counted.values()))

    @property
    def is_pending(self) -> bool:
        """Whether a device may still be at it."""
        return self._copy.is_pending or (self._local is not None and self._local.is_pending)

    def partials(self) -> Partials:
        """The numbers that are merged over ranks, by tag; waits for them, on any thread."""
        numbers, packed = self._copy.read()
        rest = iter(numbers)
        parts: Partials = {}
        for tag, value in self._values.items():
            added = {name: next(rest) for name in names_of(self._sums[tag])}
            most = {name: next(rest) for name in names_of(self._maxes[tag])}
            parts[tag] = Partial(value, added, most, self._owners.get(tag, ""))
        for tag, found in zip(self._counted, packed, strict=True):
            parts[tag] = histogram_part(found, self._owners.get(tag, ""))
        return parts


class StepValues:
    """The values of one step, on their way to the host."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}
        self._uncounted: dict[str, Histogram] = {}
        self._counted: dict[str, Tensor] = {}
        self.finished: dict[str, FinalValue] = {}
        """Values that are no numbers, or that no rank shares."""
        self._owners: dict[str, str] = {}
        self._local: StepValues | None = None
        self._local_packed: PackedValues | None = None

    @property
    def tags(self) -> list[str]:
        """Of what it holds so far, less what is its own."""
        return [*self._values, *self._uncounted, *self._counted, *self.finished]

    def add_local(self, values: Mapping[str, Value]) -> None:
        """Takes values that are not merged with other ranks'."""
        self._local = self._local or StepValues()
        self._local.add(values)

    def merge_local(self, other: StepValues) -> None:
        """Takes all that another batch holds, not to be merged with other ranks'."""
        self._local = self._local or StepValues()
        self._local.update(other)

    def add(self, values: Mapping[str, Value | Histogram | HostValue], owner: str = "") -> None:
        """Takes the values of one metric; `owner` names it, where it may fail on another rank."""
        if owner:
            self.flag_failure(owner, failed=False)
        for tag, value in values.items():
            self._owners[tag] = owner
            if isinstance(value, Value):
                self._values[tag] = value
            elif isinstance(value, Histogram):
                self._uncounted[tag] = value
            else:
                self.finished[tag] = value

    def flag_failure(self, owner: str, *, failed: bool) -> None:
        """Says whether a metric, or a tag, failed here: what other ranks know of it is not the whole then."""
        self._values[_FAILED + owner] = Sum(float(failed))

    @property
    def uncounted(self) -> Mapping[str, Histogram]:
        """Histograms whose tensors are held, by tag."""
        return self._uncounted

    def update(self, other: StepValues) -> None:
        """Takes what another batch holds."""
        self._values.update(other._values)
        self._uncounted.update(other._uncounted)
        self._counted.update(other._counted)
        self.finished.update(other.finished)
        self._owners.update(other._owners)

    def count_histograms(self, agree: Agree | None = None) -> None:
        """Counts histograms, while their tensors have the contents that are meant.

        Args:
            agree: makes the ranges of this rank's tensors those of all ranks.
        """
        histograms, self._uncounted = self._uncounted, {}
        groups = [[flat(tensor) for tensor in value.tensors] for value in histograms.values()]
        found = histogram.value_ranges(groups, [value.bounds for value in histograms.values()])
        ranges: Mapping[str, Tensor] = dict(zip(histograms, found, strict=True))
        if agree is not None:
            ranges = agree(ranges)
        bins = [value.bins for value in histograms.values()]
        counted = histogram.count(groups, [ranges[tag] for tag in histograms], bins)
        self._counted.update(zip(histograms, counted, strict=True))

    def pack(self) -> PackedValues:
        """Starts the copies to the host."""
        if self._uncounted:
            self.count_histograms()
        self._local_packed = self._local.pack() if self._local is not None else None
        return PackedValues(self._values, self._counted, self._owners, self._local_packed)

    def partials(self) -> Partials:
        """The numbers that are merged over ranks, by tag, on the host."""
        return self.pack().partials()

    def finish_local(self, step_info: StepInfo) -> dict[str, FinalValue]:
        """Finished values by tag, of this rank alone."""
        return self.finish(self.partials(), step_info)

    def finish(self, parts: Partials, step_info: StepInfo) -> dict[str, FinalValue]:
        """Finished values by tag, from parts that may be those of all ranks."""
        flags = {tag.removeprefix(_FAILED): part for tag, part in parts.items() if tag.startswith(_FAILED)}
        failed = {owner for owner, part in flags.items() if any(part.sums.values())}
        whole = {
            tag: part
            for tag, part in parts.items()
            if not tag.startswith(_FAILED) and failed.isdisjoint((tag, part.owner))
        }
        own: Mapping[str, FinalValue] = {}
        if self._local is not None and self._local_packed is not None:
            own = self._local.finish(self._local_packed.partials(), step_info)
        return {**finish(whole, step_info), **self.finished, **own}


def _numbers(given: Sequence[Number] | Mapping[str, Number]) -> Sequence[Number]:
    return list(given.values()) if isinstance(given, Mapping) else given
