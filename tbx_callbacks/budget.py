"""Keeps the monitor's share of the training time within a budget, by measuring costly metrics less often."""

from __future__ import annotations

import logging
import math

from tbx_callbacks.counters import Stopwatch
from tbx_callbacks.decisions import Decisions, Numbers
from tbx_callbacks.program import Program
from tbx_callbacks.schedule import stretched

logger = logging.getLogger(__name__)

_MEASURED = 2
"""Runs of each metric that a decision needs, after its first, which also pays for imports and allocations."""
_CHEAP = 0.05
"""Metrics that take less than this part of the budget keep their cadence."""


_NAME = "overhead budget"


class Budget:
    """Decides once, on rank 0, from what each metric was seen to cost there; all ranks measure less often alike.

    Args:
        share: of the training time that measuring and publishing may take; None sets no limit.
        stopwatch: says what they took.
        program: the metrics, the same on every rank.
        decisions: carries the new cadences to all ranks.
    """

    def __init__(self, share: float | None, stopwatch: Stopwatch, program: Program, decisions: Decisions) -> None:
        self.share, self._stopwatch, self._program, self._decisions = share, stopwatch, program, decisions
        self._names = {f"{place} {entry.item.name}": entry for place, entry in enumerate(program.entries)}
        self._decided = share is None or not decisions.decides
        self._since = stopwatch.seconds, stopwatch.monitoring
        if share is not None:
            decisions.expect(_NAME, self._stretch)

    def decide(self) -> str | None:
        """Decides, when all costs are known, by how much the cadence of costly metrics is to be stretched.

        Returns:
            What was decided, in Markdown; None when there is nothing to say (yet).
        """
        entries = self._program.on_steps
        if self._decided or any(entry.runs <= _MEASURED for entry in entries):
            return None
        seconds, spent = self._stopwatch.seconds - self._since[0], self._stopwatch.monitoring - self._since[1]
        self._decided = True
        assert self.share is not None
        known = sum(entry.first + entry.seconds for entry in entries)
        # What cannot be told apart (publishing, looking at gradients before clipping) is spread over all.
        spread = spent / known if known else 0.0
        shares = {entry: spread * entry.mean * entry.runs / seconds for entry in entries}
        total = sum(shares.values())
        if total <= self.share:
            self._decisions.decide(_NAME, {})
            return None
        costly = [entry for entry, share in shares.items() if share > _CHEAP * self.share]
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

    def _stretch(self, factors: Numbers) -> None:
        """What was decided, on each rank."""
        self._decisions.settle(_NAME)
        for name, factor in factors.items():
            entry = self._names[name]
            entry.schedule = stretched(entry.schedule, int(factor))
        self._program.regroup()
