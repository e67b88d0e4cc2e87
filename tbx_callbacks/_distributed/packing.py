"""Collects the values of a step, packs their parts into one copy to the host, and finishes merged parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from torch import Tensor

from tbx_callbacks._extensions import OUTSIDE_ERRORS
from tbx_callbacks._model.parameters import PerGroup
from tbx_callbacks._stats import histogram
from tbx_callbacks._stats.flat import flat_all
from tbx_callbacks._stats.host_copy import HostCopy
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.base import Values
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.metrics.value_checks import GROUP, checked_parts
from tbx_callbacks.metrics.values import (
    Derived,
    Histogram,
    HistogramParts,
    Part,
    Partial,
    Partials,
    Sum,
    Value,
    Vector,
    checked,
    results,
)
from tbx_callbacks.tags import HIDDEN

_HISTOGRAM = HistogramParts()
_FAILED = "failed:"  # no tag holds a colon
Agree = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
OnError = Callable[[str, BaseException], None]
Facts = Mapping[str, float]
"""Numbers that the trainer reported for a step, by tag."""


Entry = tuple[str, Value, str, Sequence[Part], Sequence[Part]]
"""A tag, its value, the metric that owns it, and the parts of the value."""


class StepValues:
    """Collects the values of one step.

    Shared values are merged over ranks; local ones belong to this rank alone. Values that are on the host already are
    finished at once.

    Args:
        on_error: called with the tag and the error of a value that cannot be computed; by default the error is raised.
    """

    def __init__(self, on_error: OnError | None = None) -> None:
        self._on_error = on_error or _raise
        self._shared: list[Entry] = []  # metrics may share a tag with {group}
        self._local: list[Entry] = []
        self._derived: dict[str, tuple[set[str], Derived]] = {}  # owners of each key
        self.uncounted: dict[str, Histogram] = {}
        """Histograms that are not counted yet and hold their tensors, by tag."""
        self._counts: dict[str, Tensor] = {}
        self._finished: dict[str, FinalValue] = {}
        self._owners: dict[str, str] = {}  # of histograms
        self._vectors: dict[str, Vector] = {}
        self.judge: Callable[[Partials], Collection[str]] = _accept
        """Returns the tags and the metrics to leave out, from all merged parts."""
        self._packed: PackedStep | None = None

    @property
    def tags(self) -> list[str]:
        """Tags of all values so far."""
        tags = [tag for entry in (*self._shared, *self._local) for tag in _Family(entry, []).tags]
        return [*tags, *self._derived, *self.uncounted, *self._counts, *self._vectors, *self._finished]

    def add(self, values: Values, owner: str = "") -> None:
        """Adds the values of one metric, to merge over ranks; `owner` is its name, if it may fail on another rank.

        Raises:
            TypeError: something is not a value, or a part of a value is neither a number nor one number per group.
            ValueError: a tag has `{group}` and its value no groups, or the other way round.
        """
        parts = checked_parts(values)  # before anything is added
        if owner:
            self.flag_failure(owner, failed=False)
        self._vectors.update({tag: value for tag, value in values.items() if isinstance(value, Vector)})
        self._shared += [
            (tag, value, owner, *parts[tag])
            for tag, value in values.items()
            if isinstance(value, Value) and tag not in self._vectors
        ]
        for tag, value in values.items():
            if isinstance(value, Histogram):
                self.uncounted[tag] = value
                self._owners[tag] = owner
            elif isinstance(value, Derived):
                owners, _ = self._derived.get(tag, (set(), value))
                self._derived[tag] = owners | {owner}, value
            elif not isinstance(value, Value):
                self._finished[tag] = value

    def add_local(self, values: Values) -> None:
        """Adds values that are not merged over ranks; see `add`."""
        parts = checked_parts(values)
        self.add({tag: value for tag, value in values.items() if not isinstance(value, Value)})
        for tag, value in values.items():
            if not isinstance(value, Value):
                continue
            sums, maxes = parts[tag]
            if all(isinstance(part, (int, float)) for part in (*sums, *maxes)):
                part = Partial(value, [float(part) for part in sums], [float(part) for part in maxes])  # type: ignore[arg-type]
                finished = results({tag: part}, self._on_error)
                self._finished.update({tag: result for tag, result in finished.items() if result is not None})
            else:
                self._local.append((tag, value, "", sums, maxes))

    def flag_failure(self, owner: str, *, failed: bool) -> None:
        """Records whether a metric, or a tag, failed on this rank: the values of other ranks are then incomplete."""
        flag = float(failed)
        self._shared.append((_FAILED + owner, Sum(flag), "", (flag,), ()))

    def update(self, other: StepValues) -> None:
        """Adds all values of another object."""
        self._shared += other._shared
        self._local += other._local
        for tag, (owners, derived) in other._derived.items():
            self._derived[tag] = self._derived.get(tag, (set(), derived))[0] | owners, derived
        for name in ("uncounted", "_counts", "_finished", "_owners", "_vectors"):
            getattr(self, name).update(getattr(other, name))

    def count_histograms(self, agree: Agree | None = None) -> None:
        """Counts the histograms now, before the contents of their tensors change.

        Args:
            agree: merges the ranges of this rank's tensors with those of all ranks.
        """
        if not self.uncounted:
            if agree is not None:
                agree({})
            return
        histograms, self.uncounted = self.uncounted, {}
        groups = [flat_all(value.tensors) for value in histograms.values()]
        own_ranges = histogram.value_ranges(groups, [value.bounds for value in histograms.values()])
        ranges: Mapping[str, Tensor] = dict(zip(histograms, own_ranges, strict=True))
        if agree is not None:
            ranges = agree(ranges)
        bins = [value.bins for value in histograms.values()]
        counts = histogram.count(groups, [ranges[tag] for tag in histograms], bins)
        self._counts.update(zip(histograms, counts, strict=True))

    def pack(self) -> PackedStep:
        """Starts the copy to the host and returns it."""
        if self.uncounted:
            self.count_histograms()
        self._packed = PackedStep(self._shared, self._local, self._counts, self._owners, self._vectors)
        return self._packed

    def finish_local(self, facts: Facts | None = None) -> dict[str, FinalValue]:
        """Returns final values by tag, from this rank alone."""
        return self.finish(self.pack().partials(), facts or {})

    def finish(self, parts: Partials, facts: Facts) -> dict[str, FinalValue]:
        """Returns final values by tag.

        Args:
            parts: the shared values, perhaps merged over ranks.
            facts: numbers that the trainer reported for this step.
        """
        failed = {tag.removeprefix(_FAILED) for tag, part in parts.items() if tag.startswith(_FAILED) and any(part[1])}
        failed.update(self.judge(parts))
        complete = {
            tag: part for tag, part in parts.items() if part.owner not in failed and not tag.startswith(_FAILED)
        }
        values = results(complete, self._on_error)
        for key, (owners, derived) in self._derived.items():
            if owners <= failed:
                continue
            finished = {tag: value for tag, value in values.items() if value is not None}
            try:
                changes = derived.function({**finished, **facts})
                values.update({tag: value if value is None else checked(value) for tag, value in changes.items()})
            except OUTSIDE_ERRORS as error:  # a function from outside the package may raise anything
                self._on_error(key, error)
        local = results(self._packed.local_parts(), self._on_error) if self._packed is not None else {}
        return {
            tag: value
            for tag, value in {**values, **self._finished, **local}.items()
            if value is not None and tag not in failed and not tag.startswith(HIDDEN)
        }


class PackedStep:
    """The parts of a step's values while one copy brings them to the host.

    Args:
        shared: values to merge over ranks; of several values of a tag the last one counts.
        local: values of this rank alone.
        counts: numbers of histograms (`histogram.count`), by tag.
        owners: owners of the histograms, by tag.
        vectors: values with many parts to merge over ranks, by tag.
    """

    def __init__(
        self,
        shared: Sequence[Entry],
        local: Sequence[Entry],
        counts: Mapping[str, Tensor],
        owners: Mapping[str, str],
        vectors: Mapping[str, Vector],
    ) -> None:
        self._owners = owners
        parts: list[Number] = []
        self._shared = [_Family(entry, parts) for entry in shared]
        self._local = [_Family(entry, parts) for entry in local]
        self._histograms = {tag: len(parts) + index for index, tag in enumerate(counts)}
        self._vectors = {
            tag: (value, len(parts) + len(counts) + index) for index, (tag, value) in enumerate(vectors.items())
        }
        self._copy = HostCopy([*parts, *counts.values(), *(value.numbers for value in vectors.values())])

    @property
    def is_pending(self) -> bool:
        """Whether the copy may still be running."""
        return self._copy.is_pending

    def partials(self) -> Partials:
        """Returns the parts of the shared values by tag. Waits for the copy; any thread may call it."""
        numbers = self._copy.read()
        parts: Partials = {}
        for family in self._shared:
            for tag, sums, maxes in family.rows(numbers):
                parts[tag] = Partial(family.value, sums, maxes, family.owner)
        for tag, index in self._histograms.items():
            low, high = numbers[index][:2]
            parts[tag] = Partial(_HISTOGRAM, numbers[index][2:], (-low, high), self._owners.get(tag, ""))
        for tag, (value, index) in self._vectors.items():
            parts[tag] = Partial(value, *value.parts_of(numbers[index]))
        return parts

    def local_parts(self) -> Partials:
        """Returns the parts of the local values by tag."""
        numbers = self._copy.read()
        return {
            tag: Partial(family.value, sums, maxes)
            for family in self._local
            for tag, sums, maxes in family.rows(numbers)
        }


class _Family:
    """The places of one value's parts in the copy: one row of numbers, or one for each group.

    Args:
        entry: the value; its tag has `{group}` if it has one number per group.
        parts: all parts of the copy; those of this value are appended.
    """

    def __init__(self, entry: Entry, parts: list[Number]) -> None:
        self.tag, self.value, self.owner, sums, maxes = entry
        grouped: list[Any] = [part for part in (*sums, *maxes) if isinstance(part, Mapping)]
        self._groups = tuple(grouped[0]) if grouped else None
        self._sums = [self._place(part, parts) for part in sums]
        self._maxes = [self._place(part, parts) for part in maxes]

    def _place(self, part: Any, parts: list[Number]) -> tuple[int, int]:
        """Appends a part; returns its first index, and the number of its entries there (0: one for all groups)."""
        start = len(parts)
        if not isinstance(part, Mapping):
            parts.append(part)
            return start, 0
        assert self._groups is not None
        if isinstance(part, PerGroup) and part.names == self._groups:
            parts.append(part.numbers)
            return start, 1
        parts.extend(part[group] for group in self._groups)
        return start, len(self._groups)

    @property
    def tags(self) -> list[str]:
        """The tag, or one for each group."""
        return [self.tag] if self._groups is None else [self.tag.replace(GROUP, group) for group in self._groups]

    def rows(self, numbers: Sequence[Sequence[float]]) -> Iterator[tuple[str, Sequence[float], Sequence[float]]]:
        """Yields each tag with its sums and its maxes."""
        if self._groups is None:
            yield self.tag, [numbers[i][0] for i, _ in self._sums], [numbers[i][0] for i, _ in self._maxes]
            return
        sums = self._columns(self._sums, numbers)
        maxes = self._columns(self._maxes, numbers)
        yield from zip(self.tags, sums, maxes, strict=False)

    def _columns(
        self, places: Sequence[tuple[int, int]], numbers: Sequence[Sequence[float]]
    ) -> Iterator[Sequence[float]]:
        """Returns the parts of one group after the other."""
        columns = [
            repeat(numbers[start][0])
            if not entries
            else numbers[start]
            if entries == 1
            else [part[0] for part in numbers[start : start + entries]]
            for start, entries in places
        ]
        return zip(*columns, strict=False) if columns else repeat(())


def _raise(_: str, error: BaseException) -> None:
    raise error


def _accept(_: Partials) -> Collection[str]:
    return ()
