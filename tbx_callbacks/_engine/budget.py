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

    def __init__(self, share: float | None, stopwatch: Stopwatch, runner: MetricRunner, messages: Messages) -> None:
        self.share, self._stopwatch, self._runner, self._messages = share, stopwatch, runner, messages
        self._names = {
            f"{place} {metric_run.spec.name}": metric_run for place, metric_run in enumerate(runner.metric_runs)
        }
        self._chosen = {metric_run: metric_run.schedule for metric_run in runner.metric_runs}  # by the set
        self._waits = share is None or not messages.is_sender
        self._since: _Seen | None = None
        self._slack = 1.0
        if share is not None:
            messages.subscribe(_NAME, self._stretch)

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
        rare = [
            metric_run
            for metric_run in self._runner.step_runs
            if metric_run not in shares and stretches(metric_run.schedule)
        ]
        assert self.share is not None
        if total <= self.share * self._slack or not costly:
            if not rare:
                self._waits = True
                self._messages.send(_NAME, {})
            return None
        if rare and max(metric_run.cost.runs for metric_run in costly) < _PATIENCE:
            return None
        self._waits = True
        # Seconds of measuring a second of training: a share of both would shrink with what is saved.
        training, allowed = max(1 - spent, 0.01), self.share / (1 - self.share)
        much = sum(shares[metric_run] for metric_run in costly)
        room = max(allowed - (total - much) / training, _CHEAP * allowed)
        factor = max(math.ceil(much / training / room), 2)
        self._messages.send(_NAME, {name: factor for name, metric_run in self._names.items() if metric_run in costly})
        return self._said(total, costly, factor)

    def _seen(self, step: int) -> _Seen:
        noted = sum(metric_run.cost.total for metric_run in self._runner.step_runs)
        return _Seen(step, self._stopwatch.seconds, self._stopwatch.monitoring, noted)

    def _shares(self, now: _Seen, since: _Seen) -> tuple[dict[MetricRun, float], float]:
        """Of the time since then: of each entry whose cost is known, and of all that measuring took."""
        seconds, monitoring = now.seconds - since.seconds, now.monitoring - since.monitoring
        # What cannot be told apart (publishing) is spread over all.
        spread = monitoring / (now.noted - since.noted) if now.noted > since.noted else 0.0
        a_step = seconds / (now.step - since.step)
        known = [metric_run for metric_run in self._runner.step_runs if metric_run.cost.runs >= _RUNS]
        return {metric_run: spread * metric_run.cost.per_step / a_step for metric_run in known}, monitoring / seconds

    def _costly(self, shares: Mapping[MetricRun, float]) -> list[MetricRun]:
        """The entries that are to be measured less often."""
        assert self.share is not None
        periodic = [metric_run for metric_run in shares if stretches(metric_run.schedule)]
        readers = [metric_run for metric_run in periodic if metric_run.spec.select is not None]
        least = _CHEAP * self.share
        costly = {metric_run for metric_run in periodic if shares[metric_run] > least}
        if sum(shares[metric_run] for metric_run in readers) > least:
            costly.update(readers)
        cheap = sum(shares[metric_run] for metric_run in periodic if metric_run not in costly)
        return [metric_run for metric_run in periodic if metric_run in costly or cheap > _CHEAP_TOGETHER * self.share]

    def _said(self, total: float, costly: Collection[MetricRun], factor: int) -> str:
        """Says what changes now; returns that of all that is no longer as the set chose it."""
        head = f"measuring took {total:.2%} of the training time, the budget is {self.share:.2%}; measured less often:"
        changed: dict[str, None] = {}  # an item may have an entry for each optimizer
        chosen: dict[str, None] = {}
        for metric_run, first in self._chosen.items():
            item, now = metric_run.spec, metric_run.schedule
            name = f"{item.name} ({describe(item)})" if item.select else item.name
            if metric_run in costly:
                now = stretched(metric_run.schedule, factor)
                changed[f"{name}: {metric_run.schedule} -> {now}"] = None
            if now != first:
                chosen[f"- {name}: {first} -> {now}"] = None
        logger.warning("%s %s", head, "; ".join(changed))
        return "\n".join((head, "", *chosen))

    def _stretch(self, factors: Numbers) -> None:
        """What was decided, on each rank; then costs are looked at anew."""
        if not factors:
            self._messages.unsubscribe(_NAME)
            return
        for name, factor in factors.items():
            metric_run = self._names[name]
            metric_run.schedule = stretched(metric_run.schedule, int(factor))
        self._runner.regroup()
        for metric_run in self._runner.metric_runs:
            metric_run.cost = Cost()
        self._since, self._slack = None, _SLACK
        self._waits = not self._messages.is_sender
