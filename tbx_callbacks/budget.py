"""Keeps the monitor's share of the training time within a budget, by measuring costly metrics less often."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from tbx_callbacks.counters import Stopwatch
from tbx_callbacks.decisions import Decisions, Numbers
from tbx_callbacks.plan import Entry
from tbx_callbacks.program import Program
from tbx_callbacks.schedule import stretched

logger = logging.getLogger(__name__)

_MEASURED = 2
"""Runs of each metric that a decision needs, after its first, which also pays for imports and allocations."""
_CHEAP = 0.05
"""Metrics that take less than this part of the budget keep their cadence."""
_SLACK = 1.25
"""How much more than the budget a decision may turn out to take: few points are a rough measure."""


_NAME = "overhead budget"


class Budget:
    """Decides on rank 0, from what each metric was seen to cost there, until the budget is kept; all ranks follow.

    Metrics that read tensors share passes over them, and only the first of them pays: they are stretched alike.

    Args:
        share: of the training time that measuring and publishing may take; None sets no limit.
        stopwatch: says what they took.
        program: the metrics, the same on every rank.
        decisions: carries the new cadences to all ranks.
    """

    def __init__(self, share: float | None, stopwatch: Stopwatch, program: Program, decisions: Decisions) -> None:
        self.share, self._stopwatch, self._program, self._decisions = share, stopwatch, program, decisions
        self._names = {f"{place} {entry.item.name}": entry for place, entry in enumerate(program.entries)}
        self._waits = share is None or not decisions.decides
        self._since, self._slack = (stopwatch.seconds, stopwatch.monitoring), 1.0
        if share is not None:
            decisions.expect(_NAME, self._stretch)

    def decide(self) -> str | None:
        """Decides, when all costs are known, by how much the cadence of costly metrics is to be stretched.

        Returns:
            What was decided, in Markdown; None when there is nothing to say (yet).
        """
        entries = self._program.on_steps
        if self._waits or any(entry.runs <= _MEASURED for entry in entries):
            return None
        assert self.share is not None
        self._waits = True
        shares = self._shares(entries)
        total = sum(shares.values())
        if total <= self.share * self._slack:
            self._decisions.decide(_NAME, {})
            return None
        readers = [entry for entry in entries if entry.item.select is not None]
        costly = [entry for entry in entries if shares[entry] > _CHEAP * self.share]
        if sum(shares[entry] for entry in readers) > _CHEAP * self.share:
            costly = [entry for entry in entries if entry in costly or entry in readers]
        rest = sum(share for entry, share in shares.items() if entry not in costly)
        room = max(self.share - rest, _CHEAP * self.share)
        factor = math.ceil((total - rest) / room)
        self._decisions.decide(_NAME, {name: factor for name, entry in self._names.items() if entry in costly})
        lines = [f"measuring took {total:.2%} of the training time, the budget is {self.share:.2%}; now less often:"]
        for entry in costly:
            groups = entry.item.select.by if entry.item.select else ""
            lines.append(f"{entry.item.name} {groups}: {entry.schedule} -> {stretched(entry.schedule, factor)}")
        logger.warning("%s", " ".join(lines))
        return "\n\n".join(lines)

    def _shares(self, entries: Sequence[Entry]) -> dict[Entry, float]:
        """Of the time since the last decision, by entry."""
        seconds, spent = self._stopwatch.seconds - self._since[0], self._stopwatch.monitoring - self._since[1]
        known = sum(entry.first + entry.seconds for entry in entries)
        # What cannot be told apart (publishing, looking at gradients before clipping) is spread over all.
        spread = spent / known if known else 0.0
        return {entry: spread * entry.mean * entry.runs / seconds for entry in entries}

    def _stretch(self, factors: Numbers) -> None:
        """What was decided, on each rank; then costs are looked at anew."""
        if not factors:
            self._decisions.settle(_NAME)
            return
        for name, factor in factors.items():
            entry = self._names[name]
            entry.schedule = stretched(entry.schedule, int(factor))
        self._program.regroup()
        for entry in self._program.on_steps:
            entry.forget_costs()
        self._since, self._slack = (self._stopwatch.seconds, self._stopwatch.monitoring), _SLACK
        self._waits = not self._decisions.decides
