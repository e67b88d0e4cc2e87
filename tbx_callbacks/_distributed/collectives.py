"""Reduces the partial values of all ranks with few collectives, whose size does not grow with the number of ranks."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence

import torch

from tbx_callbacks._distributed.group import GlooGroup
from tbx_callbacks._stats.checksums import hash_of
from tbx_callbacks.metrics.value_layouts import from_json, to_json
from tbx_callbacks.metrics.values import Partial, Partials

END = 2**40
"""The step number of ranks that have ended."""
_INITIAL_ROOM = 256  # numbers in the first collective; all ranks grow it in the same way


class RankMismatchError(RuntimeError):
    """A rank has ended, and others have not."""


class UnmatchedError(RuntimeError):
    """Other ranks do not have this step, or have other metrics at it. Later steps can still be merged."""


class Merger:
    """Merges partial values over a group of ranks.

    Args:
        group: connects all ranks.
    """

    def __init__(self, group: GlooGroup) -> None:
        self._group, self._size, self._rank = group, group.size, group.rank
        self._layouts: dict[str, Partials] = {}
        self._room = _INITIAL_ROOM

    def all_reduce(self, what: str, step: int, parts: Partials) -> Partials:
        """Returns all tags with their merged parts.

        Ranks that come with different steps wait for each other: the lower step is left out, and the higher one is
        merged when the other ranks reach it.

        Raises:
            UnmatchedError: other ranks do not have this step, or have another `what` at it.
            RankMismatchError: other ranks have ended.
        """
        layout, maxima = self._maxima(what, step, parts)
        numbers = [float(tag in parts) for tag in layout]
        for tag, template in layout.items():
            numbers += _padded(parts[tag].sums if tag in parts else (), len(template.sums), 0.0)
        sums = torch.tensor(numbers, dtype=torch.float64)
        if layout:
            self._group.all_reduce_sum(sums)
        merged: Partials = {}
        totals, start = sums.tolist(), len(layout)
        for ranks, (tag, template) in zip(totals, layout.items(), strict=False):
            end = start + len(template.sums)
            if ranks:
                value = parts[tag].value if tag in parts else template.value
                merged[tag] = Partial(value, totals[start:end], maxima[tag], template.owner)
            start = end
        return merged

    def max_reduce(self, what: str, step: int, parts: Partials) -> dict[str, list[float]]:
        """Returns the maxima over ranks by tag, in one collective; -inf for absent tags. See `all_reduce`."""
        return self._maxima(what, step, parts)[1]

    def _maxima(self, what: str, step: int, parts: Partials) -> tuple[Partials, dict[str, list[float]]]:
        """Returns the layout of all tags, and the maxima over ranks by tag."""
        layout, digest = self._layouts.get(what, {}), hash_of([what])
        new = what not in self._layouts or not _covers(layout, parts)
        row = [float(step), -float(step), digest, -digest, float(new)]
        start = len(row)
        for tag, template in layout.items():
            row += _padded(_encoded(parts[tag].maxes) if tag in parts else (), len(template.maxes), -torch.inf)
        own_row = torch.tensor(row, dtype=torch.float64)
        while True:
            numbers = torch.full((self._room,), -torch.inf, dtype=torch.float64)
            numbers[: len(row)] = own_row
            self._group.all_reduce_max(numbers)
            row = numbers[: len(row)].tolist()
            last, first, high, low, changed = row[:start]
            if last == -first and high == -low:
                break
            if last == END:
                where = "the end" if first == -END else f"step {-first:g}"
                raise RankMismatchError(f"all ranks must make the same steps, got steps from {where} to the end")
            if step < last or last == -first:
                raise UnmatchedError(f"step {step} is not merged: ranks are at step {-first:g} and {last:g}")
        if changed:
            layout = self._layouts[what] = self._union(layout, parts)
            self._room = max(self._room, start + sum(len(template.maxes) for template in layout.values()))
            return self._maxima(what, step, parts)
        maxima: dict[str, list[float]] = {}
        for tag, template in layout.items():
            maxima[tag], start = _decoded(row[start : start + len(template.maxes)]), start + len(template.maxes)
        return layout, maxima

    def _union(self, known_layout: Partials, parts: Partials) -> Partials:
        """Returns the tags and parts of every rank, the same on all ranks.

        Ranks broadcast their layouts one by one; a rank whose layout is already covered is skipped.
        """
        layout = dict(known_layout)
        data = torch.frombuffer(bytearray(_encode(parts)), dtype=torch.uint8)
        while True:
            request = torch.tensor([-self._size if _covers(layout, parts) else -self._rank, 0], dtype=torch.float64)
            self._group.all_reduce_max(request)
            root = -int(request[0])
            if root == self._size:
                return layout
            length = torch.tensor([len(data)])
            self._group.broadcast(length, root)
            received = data.clone() if root == self._rank else torch.empty(int(length), dtype=torch.uint8)
            self._group.broadcast(received, root)
            for tag, template in _decode(received.numpy().tobytes()).items():
                known = layout.get(tag, template)
                layout[tag] = known._replace(
                    sums=max(known.sums, template.sums, key=len), maxes=max(known.maxes, template.maxes, key=len)
                )


def _covers(layout: Partials, parts: Partials) -> bool:
    return all(
        tag in layout and len(part.sums) <= len(layout[tag].sums) and len(part.maxes) <= len(layout[tag].maxes)
        for tag, part in parts.items()
    )


def _encode(parts: Partials) -> bytes:
    """Describes the layout of partial values to other ranks: no numbers, only how many there are."""
    layout = {tag: [to_json(part.value), len(part.sums), len(part.maxes), part.owner] for tag, part in parts.items()}
    return json.dumps(layout).encode()


def _decode(data: bytes) -> Partials:
    return {
        tag: Partial(from_json(value), [0.0] * sums, [0.0] * maxes, owner)
        for tag, (value, sums, maxes, owner) in json.loads(data).items()
    }


def _padded(numbers: Sequence[float], size: int, fill: float) -> list[float]:
    return [*numbers, *[fill] * (size - len(numbers))]


# A maximum over ranks must be NaN if one rank's number is, but gloo ignores NaN. So NaN travels as infinity, and
# infinity as the largest finite number. Minus infinity means that a rank has no number.
_LARGEST = sys.float_info.max


def _encoded(numbers: Sequence[float]) -> list[float]:
    return [
        number if -_LARGEST < number < _LARGEST else math.inf if math.isnan(number) else math.copysign(_LARGEST, number)
        for number in numbers
    ]


def _decoded(numbers: Sequence[float]) -> list[float]:
    return [
        math.nan if number == math.inf else math.copysign(math.inf, number) if abs(number) == _LARGEST else number
        for number in numbers
    ]
