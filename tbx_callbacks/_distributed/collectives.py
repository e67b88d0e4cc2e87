"""Reduces the partial values of all ranks with few collectives, whose size does not grow with the number of ranks."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from typing import Any

import torch

from tbx_callbacks._distributed.group import GlooGroup
from tbx_callbacks._distributed.packing import Partial, Partials, fill_part

END = 2**40
"""The step number of ranks that have ended."""
_INITIAL_ROOM = 256  # numbers in the first collective; all ranks grow it in the same way
Key = tuple[str, str]


class RankMismatchError(RuntimeError):
    """Ranks do not run metrics at the same steps."""


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
        """Returns all tags with their merged parts; `what` and `step` must be the same on all ranks."""
        layout, maxima = self._maxima(what, step, parts)
        empty = Partial(None, {})
        keys = [(tag, name) for tag, part in layout.items() for name in part.sums]
        numbers = [float(tag in parts) for tag in layout]
        numbers += [parts.get(tag, empty).sums.get(name, 0.0) for tag, name in keys]
        sums = torch.tensor(numbers, dtype=torch.float64)
        if layout:
            self._group.all_reduce_sum(sums)
        counts, totals = sums[: len(layout)].tolist(), dict(zip(keys, sums[len(layout) :].tolist(), strict=True))
        return {
            tag: fill_part(tag, parts.get(tag, part), part, totals, maxima)
            for (tag, part), ranks in zip(layout.items(), counts, strict=True)
            if ranks
        }

    def max_reduce(self, what: str, step: int, parts: Partials) -> dict[str, dict[str, float]]:
        """Returns the maximum of each number over ranks, by tag and name, in one collective; see `all_reduce`."""
        by_tag: dict[str, dict[str, float]] = {}
        for (tag, name), number in self._maxima(what, step, parts)[1].items():
            by_tag.setdefault(tag, {})[name] = number
        return by_tag

    def _maxima(self, what: str, step: int, parts: Partials) -> tuple[Partials, dict[Key, float]]:
        """Returns all tags and parts, and the maximum of each number over ranks."""
        layout, digest = self._layouts.get(what, {}), hash_of([what])
        new = what not in self._layouts or not _covers(layout, parts)
        keys = [(tag, name) for tag, part in layout.items() for name in part.maxes]
        numbers = torch.full((self._room,), -torch.inf, dtype=torch.float64)
        head = [float(step), -float(step), digest, -digest, float(new)]
        empty = Partial(None, {})
        own = [parts.get(tag, empty).maxes.get(name, -torch.inf) for tag, name in keys]
        numbers[: len(head) + len(own)] = torch.tensor(head + own, dtype=torch.float64)
        self._group.all_reduce_max(numbers)
        last, first, high, low, changed = numbers[: len(head)].tolist()
        if last != -first or high != -low:
            lowest, highest = ("the end" if position == END else f"step {position:g}" for position in (-first, last))
            raise RankMismatchError(
                f"all ranks must run the same metrics at the same steps, got steps from {lowest} to {highest}"
            )
        if changed:
            layout = self._layouts[what] = self._union(layout, parts)
            self._room = max(self._room, len(head) + sum(len(part.maxes) for part in layout.values()))
            return self._maxima(what, step, parts)
        return layout, dict(zip(keys, numbers[len(head) : len(head) + len(keys)].tolist(), strict=True))

    def _union(self, known_layout: Partials, parts: Partials) -> Partials:
        """Returns the tags and parts of every rank, the same on all ranks.

        Ranks broadcast their layouts one by one; a rank whose layout is already covered is skipped.
        """
        layout = {tag: part.empty_like() for tag, part in known_layout.items()}
        data = torch.frombuffer(
            bytearray(pickle.dumps({tag: part.empty_like() for tag, part in parts.items()})), dtype=torch.uint8
        )
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
            received_layout: dict[str, Any] = pickle.loads(received.numpy().tobytes())
            for tag, part in received_layout.items():
                known_part = layout.setdefault(tag, part)
                known_part.sums.update({name: 0.0 for name in part.sums if name not in known_part.sums})
                known_part.maxes.update({name: 0.0 for name in part.maxes if name not in known_part.maxes})


def hash_of(names: Sequence[str]) -> float:
    """Returns a hash of the names that is the same in every process; a float64 holds it exactly."""
    return float(int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:6], "big"))


def _covers(layout: Partials, parts: Partials) -> bool:
    return all(
        tag in layout and part.sums.keys() <= layout[tag].sums.keys() and part.maxes.keys() <= layout[tag].maxes.keys()
        for tag, part in parts.items()
    )
