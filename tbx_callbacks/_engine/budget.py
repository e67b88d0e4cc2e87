"""Keeps the monitor's share of the training time within a budget, by measuring costly metrics less often."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tbx_callbacks._config.schedule import stretched, stretches
from tbx_callbacks._distributed.messages import Messages, Numbers
from tbx_callbacks._engine.cost import Cost
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.plan import MetricRun, describe
from tbx_callbacks._engine.runner import MetricRunner

logger = logging.getLogger(__name__)

_RUNS = 3
"""Runs after which a metric's cost is known; the first, which also pays for imports and allocations, is left out."""
_PATIENCE = 3 * _RUNS
"""Runs after which a costly metric no longer waits for rarer ones to be known: they join a later decision."""
_CHEAP = 0.05
"""Metrics that take less than this part of the budget keep their cadence,"""
_CHEAP_TOGETHER = 0.5
"""unless all of these together take more than this part."""
_SLACK = 1.25
"""How much more than the budget a decision may turn out to take: few points are a rough measure."""

_NAME = "overhead budget"


@dataclass(frozen=True)
class _Seen:
    """What was seen until a step; `noted` are the seconds that entries cost by themselves."""

    step: int
    seconds: float
    monitoring: float
    noted: float


class Budget:
    """Decides on rank 0, from what each metric was seen to cost there, until the budget is kept; all ranks follow.

    Metrics that read tensors share passes over them, and only the first of them pays: they are stretched alike. One
    that is rare, or never due, does not hold up a decision about others; it is decided upon when its cost is known.

    Args:
        share: of the training time that measuring and publishing may take; None sets no limit.
        stopwatch: says what they took.
        program: the metrics, the same on every rank.
        decisions: carries the new cadences to all ranks.
    """

    def __init__(self, share: float | None, stopwatch: Stopwatch, program: MetricRunner, decisions: Messages) -> None:
        self.share, self._stopwatch, self._program, self._decisions = share, stopwatch, program, decisions
        self._names = {f"{place} {entry.item.name}": entry for place, entry in enumerate(program.entries)}
        self._chosen = {entry: entry.schedule for entry in program.entries}  # by the set
        self._waits = share is None or not decisions.decides
        self._since: _Seen | None = None
        self._slack = 1.0
        if share is not None:
            decisions.expect(_NAME, self._stretch)

    def decide(self, step: int) -> str | None:
        """A due step was published: decides, as soon as costs are known, how much less often costly metrics run.

        Returns:
            The cadences that are not the set's own any more, in Markdown; None when nothing was decided (yet).
        """
        if self._waits:
            return None
        now = self._seen(step)
        if self._since is None:
            self._since = now  # only from here on: a training's own first steps are slow too
        if step == self._since.step:
            return None
        shares, spent = self._shares(now, self._since)
        total, costly = sum(shares.values()), self._costly(shares)
        rare = [entry for entry in self._program.on_steps if entry not in shares and stretches(entry.schedule)]
        assert self.share is not None
        if total <= self.share * self._slack or not costly:
            if not rare:
                self._waits = True
                self._decisions.decide(_NAME, {})
            return None
        if rare and max(entry.cost.runs for entry in costly) < _PATIENCE:
            return None
        self._waits = True
        # Seconds of measuring a second of training: a share of both would shrink with what is saved.
        training, allowed = max(1 - spent, 0.01), self.share / (1 - self.share)
        much = sum(shares[entry] for entry in costly)
        room = max(allowed - (total - much) / training, _CHEAP * allowed)
        factor = max(math.ceil(much / training / room), 2)
        self._decisions.decide(_NAME, {name: factor for name, entry in self._names.items() if entry in costly})
        return self._said(total, costly, factor)

    def _seen(self, step: int) -> _Seen:
        noted = sum(entry.cost.total for entry in self._program.on_steps)
        return _Seen(step, self._stopwatch.seconds, self._stopwatch.monitoring, noted)

    def _shares(self, now: _Seen, since: _Seen) -> tuple[dict[MetricRun, float], float]:
        """Of the time since then: of each entry whose cost is known, and of all that measuring took."""
        seconds, monitoring = now.seconds - since.seconds, now.monitoring - since.monitoring
        # What cannot be told apart (publishing) is spread over all.
        spread = monitoring / (now.noted - since.noted) if now.noted > since.noted else 0.0
        a_step = seconds / (now.step - since.step)
        known = [entry for entry in self._program.on_steps if entry.cost.runs >= _RUNS]
        return {entry: spread * entry.cost.a_step / a_step for entry in known}, monitoring / seconds

    def _costly(self, shares: Mapping[MetricRun, float]) -> list[MetricRun]:
        """The entries that are to be measured less often."""
        assert self.share is not None
        periodic = [entry for entry in shares if stretches(entry.schedule)]
        readers = [entry for entry in periodic if entry.item.select is not None]
        least = _CHEAP * self.share
        costly = {entry for entry in periodic if shares[entry] > least}
        if sum(shares[entry] for entry in readers) > least:
            costly.update(readers)
        cheap = sum(shares[entry] for entry in periodic if entry not in costly)
        return [entry for entry in periodic if entry in costly or cheap > _CHEAP_TOGETHER * self.share]

    def _said(self, total: float, costly: Collection[MetricRun], factor: int) -> str:
        """Says what changes now; returns that of all that is no longer as the set chose it."""
        head = f"measuring took {total:.2%} of the training time, the budget is {self.share:.2%}; measured less often:"
        changed: dict[str, None] = {}  # an item may have an entry for each optimizer
        chosen: dict[str, None] = {}
        for entry, first in self._chosen.items():
            item, now = entry.item, entry.schedule
            name = f"{item.name} ({describe(item)})" if item.select else item.name
            if entry in costly:
                now = stretched(entry.schedule, factor)
                changed[f"{name}: {entry.schedule} -> {now}"] = None
            if now != first:
                chosen[f"- {name}: {first} -> {now}"] = None
        logger.warning("%s %s", head, "; ".join(changed))
        return "\n".join((head, "", *chosen))

    def _stretch(self, factors: Numbers) -> None:
        """What was decided, on each rank; then costs are looked at anew."""
        if not factors:
            self._decisions.settle(_NAME)
            return
        for name, factor in factors.items():
            entry = self._names[name]
            entry.schedule = stretched(entry.schedule, int(factor))
        self._program.regroup()
        for entry in self._program.entries:
            entry.cost = Cost()
        self._since, self._slack = None, _SLACK
        self._waits = not self._decisions.decides
