"""Keeps the monitoring overhead within a budget by lengthening the intervals of costly metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tbx_callbacks._config.schedule import can_stretch, stretch
from tbx_callbacks._engine.cost import Cost
from tbx_callbacks._engine.counters import Stopwatch
from tbx_callbacks._engine.metric_plan import MetricRun, describe
from tbx_callbacks._engine.metric_runner import MetricRunner
from tbx_callbacks._text import some

logger = logging.getLogger(__name__)

_MIN_RUNS = 3
"""Runs after which a metric's cost is known. The first one is ignored: it also pays for imports and allocations."""
_MAX_RUNS_BEFORE_DECISION = 3 * _MIN_RUNS
"""Runs after which a costly metric no longer waits for rarer ones, whose cost is decided on later."""
_CHEAP_SHARE = 0.05
"""Metrics below this share of the budget keep their interval,"""
_CHEAP_TOTAL_SHARE = 0.5
"""unless all of these together exceed this share of the budget."""
_MOST_LOGGED = 3
"""Metrics with the same change that the log names; the text in TensorBoard names all."""
_SLACK = 1.25
"""Tolerated overshoot after a decision: with few points the measured overhead is imprecise."""


@dataclass(frozen=True)
class _Measurement:
    """Totals up to a step; `charged` is the number of seconds charged to individual metric runs."""

    step: int
    seconds: float
    monitoring: float
    charged: float


@dataclass(frozen=True)
class Decision:
    """Factors for the intervals of some metric runs, by index, and the text about it.

    Without factors, the budget is met and nothing remains to be decided.
    """

    factors: Mapping[int, int] = field(default_factory=dict)
    report: str = ""


class Budget:
    """Decides on rank 0, from the measured cost of each metric, until the budget is met. All ranks follow.

    Metrics that read tensors share passes over them, and only the first of them is charged: they get the same factor. A
    metric that is rarely or never due does not delay the decision about the others. It is decided on once its cost is
    known.

    Args:
        share: the largest share of the training time for measuring and publishing.
        stopwatch: reports the time spent on them.
        runner: runs the metrics, the same ones in the same order on every rank.
    """

    def __init__(self, share: float, stopwatch: Stopwatch, runner: MetricRunner) -> None:
        self.share, self._stopwatch, self._runner = share, stopwatch, runner
        self._configured = {metric_run: metric_run.schedule for metric_run in runner.metric_runs}  # in the metric set
        self._idle = False  # whether a decision has yet to be applied
        self._baseline: _Measurement | None = None
        self._slack = 1.0

    def decide(self, step: int) -> Decision | None:
        """Decides, after a due step was published, by how much to lengthen the intervals of costly metrics.

        Returns:
            The decision, whose report lists all cadences that differ from the metric set, as Markdown; None while
            there is nothing to decide.
        """
        if self._idle:
            return None
        now = self._measure(step)
        if self._baseline is None:
            self._baseline = now  # the first steps of a training are slow
        if step == self._baseline.step:
            return None
        shares, spent = self._shares(now, self._baseline)
        total, costly = sum(shares.values()), self._costly(shares)
        unmeasured = [
            metric_run
            for metric_run in self._runner.step_runs
            if metric_run not in shares and can_stretch(metric_run.schedule)
        ]
        if total <= self.share * self._slack or not costly:
            self._idle = not unmeasured
            return Decision() if self._idle else None
        if unmeasured and max(metric_run.cost.runs for metric_run in costly) < _MAX_RUNS_BEFORE_DECISION:
            return None
        self._idle = True
        # Monitoring seconds per second of training. A share of the total would shrink with the time that is saved.
        training, allowed = max(1 - spent, 0.01), self.share / (1 - self.share)
        costly_share = sum(shares[metric_run] for metric_run in costly)
        allowance = max(allowed - (total - costly_share) / training, _CHEAP_SHARE * allowed)
        factor = max(math.ceil(costly_share / training / allowance), 2)
        factors = {index: factor for index, metric_run in enumerate(self._configured) if metric_run in costly}
        return Decision(factors, self._report(total, costly, factor))

    def _measure(self, step: int) -> _Measurement:
        charged = sum(metric_run.cost.total for metric_run in self._runner.step_runs)
        return _Measurement(step, self._stopwatch.seconds, self._stopwatch.monitoring, charged)

    def _shares(self, now: _Measurement, baseline: _Measurement) -> tuple[dict[MetricRun, float], float]:
        """The share of the time since `baseline` of each metric run whose cost is known, and of all monitoring.

        Shares are fractions of the elapsed seconds.
        """
        seconds, monitoring = now.seconds - baseline.seconds, now.monitoring - baseline.monitoring
        # Time that is not charged to one metric (publishing) is spread over all.
        scale = monitoring / (now.charged - baseline.charged) if now.charged > baseline.charged else 0.0
        step_time = seconds / (now.step - baseline.step)
        measured = [metric_run for metric_run in self._runner.step_runs if metric_run.cost.runs >= _MIN_RUNS]
        return {
            metric_run: scale * metric_run.cost.per_step / step_time for metric_run in measured
        }, monitoring / seconds

    def _costly(self, shares: Mapping[MetricRun, float]) -> list[MetricRun]:
        """The metric runs whose intervals have to be lengthened."""
        periodic = [metric_run for metric_run in shares if can_stretch(metric_run.schedule)]
        readers = [metric_run for metric_run in periodic if metric_run.spec.select is not None]
        threshold = _CHEAP_SHARE * self.share
        costly = {metric_run for metric_run in periodic if shares[metric_run] > threshold}
        if sum(shares[metric_run] for metric_run in readers) > threshold:
            costly.update(readers)
        cheap = sum(shares[metric_run] for metric_run in periodic if metric_run not in costly)
        return [
            metric_run for metric_run in periodic if metric_run in costly or cheap > _CHEAP_TOTAL_SHARE * self.share
        ]

    def _report(self, total: float, costly: Collection[MetricRun], factor: int) -> str:
        """Logs the changes, and returns a summary of every schedule that differs from the configured one."""
        summary = f"monitoring took {total:.2%} of the training time, the budget is {self.share:.2%}; longer intervals:"
        changes: dict[str, dict[str, None]] = {}  # a metric may have one run per optimizer
        lengthened: dict[str, None] = {}
        for metric_run, configured in self._configured.items():
            item, now = metric_run.spec, metric_run.schedule
            name = f"{item.name} ({describe(item)})" if item.select else item.name
            if metric_run in costly:
                now = stretch(metric_run.schedule, factor)
                changes.setdefault(f"{metric_run.schedule} -> {now}", {})[name] = None
            if now != configured:
                lengthened[f"- {name}: {configured} -> {now}"] = None
        logged = "; ".join(f"{change} for {some([*names], _MOST_LOGGED)}" for change, names in changes.items())
        logger.warning("%s %s", summary, logged)
        return "\n".join((summary, "", *lengthened))

    def stretch(self, factors: Sequence[int]) -> None:
        """Applies the factors of rank 0, one for each metric run (0: unchanged), then measures the costs again."""
        for metric_run, factor in zip(self._configured, factors, strict=True):
            if factor:
                metric_run.schedule = stretch(metric_run.schedule, factor)
        self._runner.regroup()
        for metric_run in self._runner.metric_runs:
            metric_run.cost = Cost()
        self._baseline, self._slack, self._idle = None, _SLACK, False
