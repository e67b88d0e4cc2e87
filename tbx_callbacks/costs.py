"""What measuring costs, by entry: seconds of the training thread, and of a device beyond them."""

from __future__ import annotations

from collections.abc import Sequence


class Cost:
    """Seconds that an entry cost. What it took at one step, in however many parts, is one run.

    The first run also pays for imports and allocations, so it is kept apart.
    """

    def __init__(self) -> None:
        self.runs = self._began = self._ended = 0
        self._first = self._rest = 0.0

    def add(self, seconds: float, step: int) -> None:
        """Adds what was done at a step."""
        if self.runs == 0:
            self._began = step
        if self.runs == 0 or step != self._ended:
            self.runs, self._ended = self.runs + 1, step
        self.add_late(seconds, step)

    def add_late(self, seconds: float, step: int) -> None:
        """Adds what is known now of an earlier step."""
        if step <= self._began:
            self._first += seconds
        else:
            self._rest += seconds

    @property
    def total(self) -> float:
        """Seconds of all runs."""
        return self._first + self._rest

    @property
    def a_run(self) -> float:
        """Seconds a run."""
        return self._rest / (self.runs - 1) if self.runs > 1 else self._first

    @property
    def a_step(self) -> float:
        """Seconds a step, from the first run to the last."""
        return self._rest / (self._ended - self._began) if self.runs > 1 else 0.0


class Bill:
    """What some entries cost by themselves since the bill began."""

    def __init__(self, costs: Sequence[Cost]) -> None:
        self._costs, self._before = costs, [cost.total for cost in costs]

    def seconds(self) -> float:
        """All of it."""
        return sum(self._took())

    def parts(self) -> list[tuple[Cost, float]]:
        """Each entry's part of it; the same of nothing."""
        took, whole = self._took(), self.seconds()
        return [(c, t / whole if whole else 1 / len(took)) for c, t in zip(self._costs, took, strict=True)]

    def _took(self) -> list[float]:
        return [cost.total - before for cost, before in zip(self._costs, self._before, strict=True)]


def share(costs: Sequence[Cost], seconds: float, step: int) -> None:
    """Adds what was done for several entries at once: each pays the same part."""
    for cost in costs:
        cost.add(seconds / len(costs), step)
