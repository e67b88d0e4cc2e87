"""From the parts of all ranks to those of the run: few collectives, of a size that does not grow with the ranks."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from typing import Any

import torch

from tbx_callbacks._distributed.group import GlooGroup
from tbx_callbacks._distributed.packing import Partial, Partials, filled

END = 2**40
"""The step of ranks that have ended."""
_ROOM = 256  # numbers of the first collective; it grows, on all ranks alike
Key = tuple[str, str]


class RankMismatchError(RuntimeError):
    """Ranks do not measure the same steps."""


class Merger:
    """Merges parts over a line.

    Args:
        line: to all ranks.
    """

    def __init__(self, line: GlooGroup) -> None:
        self._group, self._size, self._rank = line, line.size, line.rank
        self._layouts: dict[str, Partials] = {}
        self._room = _ROOM

    def all_reduce(self, what: str, step: int, parts: Partials) -> Partials:
        """All tags with their merged parts; `what` and `step` are the same on all ranks."""
        layout, most = self._maxima(what, step, parts)
        empty = Partial(None, {})
        places = [(tag, name) for tag, part in layout.items() for name in part.sums]
        numbers = [float(tag in parts) for tag in layout]
        numbers += [parts.get(tag, empty).sums.get(name, 0.0) for tag, name in places]
        sums = torch.tensor(numbers, dtype=torch.float64)
        if layout:
            self._group.all_reduce_sum(sums)
        there, added = sums[: len(layout)].tolist(), dict(zip(places, sums[len(layout) :].tolist(), strict=True))
        return {
            tag: filled(tag, parts.get(tag, part), part, added, most)
            for (tag, part), ranks in zip(layout.items(), there, strict=True)
            if ranks
        }

    def max_reduce(self, what: str, step: int, parts: Partials) -> dict[str, dict[str, float]]:
        """The largest of each number over ranks, by tag and name, in one collective; see `merge`."""
        found: dict[str, dict[str, float]] = {}
        for (tag, name), number in self._maxima(what, step, parts)[1].items():
            found.setdefault(tag, {})[name] = number
        return found

    def _maxima(self, what: str, step: int, parts: Partials) -> tuple[Partials, dict[Key, float]]:
        """All tags and parts, and the largest of each number over ranks."""
        layout, digest = self._layouts.get(what, {}), hash_of([what])
        new = what not in self._layouts or not _covers(layout, parts)
        places = [(tag, name) for tag, part in layout.items() for name in part.maxes]
        numbers = torch.full((self._room,), -torch.inf, dtype=torch.float64)
        head = [float(step), -float(step), digest, -digest, float(new)]
        empty = Partial(None, {})
        mine = [parts.get(tag, empty).maxes.get(name, -torch.inf) for tag, name in places]
        numbers[: len(head) + len(mine)] = torch.tensor(head + mine, dtype=torch.float64)
        self._group.all_reduce_max(numbers)
        last, first, high, low, changed = numbers[: len(head)].tolist()
        if last != -first or high != -low:
            lowest, highest = ("the end" if at == END else f"step {at:g}" for at in (-first, last))
            raise RankMismatchError(
                f"all must measure the same at the same steps, but they are from {lowest} to {highest}"
            )
        if changed:
            layout = self._layouts[what] = self._union(layout, parts)
            self._room = max(self._room, len(head) + sum(len(part.maxes) for part in layout.values()))
            return self._maxima(what, step, parts)
        return layout, dict(zip(places, numbers[len(head) : len(head) + len(places)].tolist(), strict=True))

    def _union(self, known: Partials, parts: Partials) -> Partials:
        """Every rank's tags and parts, the same on all, rank by rank; ranks that have the same are asked once."""
        layout = {tag: part.empty_like() for tag, part in known.items()}
        data = torch.frombuffer(
            bytearray(pickle.dumps({tag: part.empty_like() for tag, part in parts.items()})), dtype=torch.uint8
        )
        while True:
            asks = torch.tensor([-self._size if _covers(layout, parts) else -self._rank, 0], dtype=torch.float64)
            self._group.all_reduce_max(asks)
            root = -int(asks[0])
            if root == self._size:
                return layout
            length = torch.tensor([len(data)])
            self._group.broadcast(length, root)
            theirs = data.clone() if root == self._rank else torch.empty(int(length), dtype=torch.uint8)
            self._group.broadcast(theirs, root)
            held: dict[str, Any] = pickle.loads(theirs.numpy().tobytes())
            for tag, part in held.items():
                known_part = layout.setdefault(tag, part)
                known_part.sums.update({name: 0.0 for name in part.sums if name not in known_part.sums})
                known_part.maxes.update({name: 0.0 for name in part.maxes if name not in known_part.maxes})


def hash_of(names: Sequence[str]) -> float:
    """A number that tells lists of names apart, the same in every process; a float64 holds it exactly."""
    return float(int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:6], "big"))


def _covers(layout: Partials, parts: Partials) -> bool:
    return all(
        tag in layout and part.sums.keys() <= layout[tag].sums.keys() and part.maxes.keys() <= layout[tag].maxes.keys()
        for tag, part in parts.items()
    )
