"""Packs the values of a step into flat vectors, and unpacks merged vectors."""

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

_BIN_NAMES = tuple(map(str, range(2 + MOST_BINS)))


_FAILED = "failed:"  # no tag holds a colon
Agree = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass
class Partial:
    """The partial value of a tag on one rank: parts to add over ranks and parts to maximize, by name."""

    value: Value | None
    """Computes the final value from merged parts; None for a histogram."""
    sums: dict[str, float]
    maxes: dict[str, float] = field(default_factory=dict)
    owner: str = ""
    """Name of the metric, if it may fail on another rank."""

    def result(self, step_info: StepInfo) -> FinalValue | None:
        """Returns the final value from merged parts."""
        if self.value is None:
            low, high = -self.maxes["low"], self.maxes["high"]
            return histogram.finish([low, high, *self.sums.values()])
        return self.value.result(list(self.sums.values()), list(self.maxes.values()), step_info)

    def empty_like(self) -> Partial:
        """Returns a copy without numbers, which describes the layout to other ranks."""
        return Partial(
            _without_tensors(self.value), dict.fromkeys(self.sums, 0.0), dict.fromkeys(self.maxes, 0.0), self.owner
        )


Partials = dict[str, Partial]


def finish(parts: Mapping[str, Partial], step_info: StepInfo) -> dict[str, FinalValue]:
    """Returns final values by tag, without empty histograms and values whose result is None."""
    results = {tag: part.result(step_info) for tag, part in parts.items()}
    return {tag: value for tag, value in results.items() if value is not None}


def histogram_part(packed: Sequence[float], owner: str = "") -> Partial:
    """Returns the partial value of a histogram, from the numbers of `histogram.count`."""
    low, high, *rest = packed
    return Partial(None, dict(zip(_BIN_NAMES, rest, strict=False)), {"low": -low, "high": high}, owner)


def fill_part(
    tag: str,
    part: Partial,
    layout: Partial,
    sums_by_key: Mapping[tuple[str, str], float],
    maxima_by_key: Mapping[tuple[str, str], float],
) -> Partial:
    """Returns a partial value with the merged numbers; other ranks may have more names than this one."""
    value = None if part.value is None else part.value.widened(list(layout.sums))
    own_sums = {} if value is None else value.sums()
    names = list(own_sums) if isinstance(own_sums, Mapping) and own_sums else list(layout.sums)
    maxes = {name: maxima_by_key[tag, name] for name in layout.maxes}
    return Partial(value, {name: sums_by_key[tag, name] for name in names}, maxes, layout.owner)


def part_names(parts: Sequence[Any] | Mapping[str, Any]) -> list[str]:
    """Returns the names of a value's parts: their own names, or their indices."""
    return list(parts) if isinstance(parts, Mapping) else [str(index) for index in range(len(parts))]


def _without_tensors(item: Any) -> Any:
    """Returns a copy without tensors: only the layout matters, since the parts travel as numbers."""
    if isinstance(item, Tensor):
        return 0.0
    if isinstance(item, Mapping):
        return {key: _without_tensors(value) for key, value in item.items()}
    if isinstance(item, tuple):
        return tuple(map(_without_tensors, item))
    if is_dataclass(item) and not isinstance(item, type):
        return replace(
            item,
            **{member.name: _without_tensors(getattr(item, member.name)) for member in fields(item) if member.init},
        )
    return item


class PackedValues:
    """The values of a step while they are copied to the host."""

    def __init__(
        self,
        values: Mapping[str, Value],
        histogram_counts: Mapping[str, Tensor],
        owners: Mapping[str, str],
        local: PackedValues | None = None,
    ) -> None:
        self._local = local
        self._values, self._histogram_tags, self._owners = values, list(histogram_counts), owners
        self._sums = {tag: value.sums() for tag, value in values.items()}
        self._maxes = {tag: value.maxes() for tag, value in values.items()}
        scalars = [part for tag in values for part in (*_numbers(self._sums[tag]), *self._maxes[tag])]
        self._copy = HostCopy(scalars, list(histogram_counts.values()))

    @property
    def is_pending(self) -> bool:
        """Whether a copy may still be running."""
        return self._copy.is_pending or (self._local is not None and self._local.is_pending)

    def partials(self) -> Partials:
        """Returns the partial values to merge over ranks, by tag. Waits for the copies; any thread may call it."""
        numbers, packed = self._copy.read()
        rest = iter(numbers)
        parts: Partials = {}
        for tag, value in self._values.items():
            added = {name: next(rest) for name in part_names(self._sums[tag])}
            maxima = {name: next(rest) for name in part_names(self._maxes[tag])}
            parts[tag] = Partial(value, added, maxima, self._owners.get(tag, ""))
        for tag, histogram_numbers in zip(self._histogram_tags, packed, strict=True):
            parts[tag] = histogram_part(histogram_numbers, self._owners.get(tag, ""))
        return parts


class StepValues:
    """Collects the values of one step and starts their copy to the host."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}
        self._uncounted: dict[str, Histogram] = {}
        self._histogram_counts: dict[str, Tensor] = {}
        self.finished: dict[str, FinalValue] = {}
        """Final values that need no merging, such as texts."""
        self._owners: dict[str, str] = {}
        self._local: StepValues | None = None
        self._local_packed: PackedValues | None = None

    @property
    def tags(self) -> list[str]:
        """Tags of all values so far, without local ones."""
        return [*self._values, *self._uncounted, *self._histogram_counts, *self.finished]

    def add_local(self, values: Mapping[str, Value]) -> None:
        """Adds values that are not merged over ranks."""
        self._local = self._local or StepValues()
        self._local.add(values)

    def merge_local(self, other: StepValues) -> None:
        """Adds all values of another object as values that are not merged over ranks."""
        self._local = self._local or StepValues()
        self._local.update(other)

    def add(self, values: Mapping[str, Value | Histogram | HostValue], owner: str = "") -> None:
        """Adds the values of one metric; `owner` is its name, if it may fail on another rank."""
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
        """Records whether a metric, or a tag, failed on this rank: the values of other ranks are then incomplete."""
        self._values[_FAILED + owner] = Sum(float(failed))

    @property
    def uncounted(self) -> Mapping[str, Histogram]:
        """Histograms that are not counted yet and hold their tensors, by tag."""
        return self._uncounted

    def update(self, other: StepValues) -> None:
        """Adds all values of another object."""
        self._values.update(other._values)
        self._uncounted.update(other._uncounted)
        self._histogram_counts.update(other._histogram_counts)
        self.finished.update(other.finished)
        self._owners.update(other._owners)

    def count_histograms(self, agree: Agree | None = None) -> None:
        """Counts the histograms now, before the contents of their tensors change.

        Args:
            agree: merges the ranges of this rank's tensors with those of all ranks.
        """
        histograms, self._uncounted = self._uncounted, {}
        groups = [[flat(tensor) for tensor in value.tensors] for value in histograms.values()]
        own_ranges = histogram.value_ranges(groups, [value.bounds for value in histograms.values()])
        ranges: Mapping[str, Tensor] = dict(zip(histograms, own_ranges, strict=True))
        if agree is not None:
            ranges = agree(ranges)
        bins = [value.bins for value in histograms.values()]
        counts = histogram.count(groups, [ranges[tag] for tag in histograms], bins)
        self._histogram_counts.update(zip(histograms, counts, strict=True))

    def pack(self) -> PackedValues:
        """Starts the copies to the host and returns them."""
        if self._uncounted:
            self.count_histograms()
        self._local_packed = self._local.pack() if self._local is not None else None
        return PackedValues(self._values, self._histogram_counts, self._owners, self._local_packed)

    def partials(self) -> Partials:
        """Returns the partial values to merge over ranks, by tag, on the host."""
        return self.pack().partials()

    def finish_local(self, step_info: StepInfo) -> dict[str, FinalValue]:
        """Returns final values by tag, from this rank alone."""
        return self.finish(self.partials(), step_info)

    def finish(self, parts: Partials, step_info: StepInfo) -> dict[str, FinalValue]:
        """Returns final values by tag, from partial values that may be merged over ranks."""
        flags = {tag.removeprefix(_FAILED): part for tag, part in parts.items() if tag.startswith(_FAILED)}
        failed = {owner for owner, part in flags.items() if any(part.sums.values())}
        complete = {
            tag: part
            for tag, part in parts.items()
            if not tag.startswith(_FAILED) and failed.isdisjoint((tag, part.owner))
        }
        local_values: Mapping[str, FinalValue] = {}
        if self._local is not None and self._local_packed is not None:
            local_values = self._local.finish(self._local_packed.partials(), step_info)
        return {**finish(complete, step_info), **self.finished, **local_values}


def _numbers(parts: Sequence[Number] | Mapping[str, Number]) -> Sequence[Number]:
    return list(parts.values()) if isinstance(parts, Mapping) else parts
