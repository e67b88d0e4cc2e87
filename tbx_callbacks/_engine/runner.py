"""Runs the metrics that are due, and switches off those that fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from tbx_callbacks._config.schedule import Every, Schedule
from tbx_callbacks._distributed.packing import StepValues
from tbx_callbacks._engine.counters import Counters
from tbx_callbacks._engine.plan import MetricRun
from tbx_callbacks._engine.publisher import Publisher
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Mean

logger = logging.getLogger(__name__)


class MetricRunner:
    """Entries by their schedules.

    Args:
        entries: what `plan` made.
        strict: raise errors of metrics instead of switching them off.
        clock: times the metrics.
        shared: whether other ranks run the same: one that fails here stays due, and says so to them.
    """

    def __init__(
        self, entries: Sequence[MetricRun], *, strict: bool, clock: Callable[[], float], shared: bool = False
    ) -> None:
        self.entries, self._strict, self._clock = list(entries), strict, clock
        self._owners = {entry: f"{place} {entry.item.name}" if shared else "" for place, entry in enumerate(entries)}
        self._failed: set[MetricRun] = set()
        self.needs = needs_of(entries)
        """What the metrics need at any step."""
        self.regroup()

    def regroup(self) -> None:
        """Schedules have changed."""
        self._by_period: dict[int, list[MetricRun]] = {}  # most schedules: they need no call to be asked
        self._others: dict[Schedule, list[MetricRun]] = {}
        for entry in self.entries:
            if entry.on_steps and isinstance(entry.schedule, Every):
                self._by_period.setdefault(entry.schedule.n, []).append(entry)
            elif entry.on_steps:
                self._others.setdefault(entry.schedule, []).append(entry)

    def key(self, due: Sequence[MetricRun]) -> tuple[str, ...]:
        """What is due, in words that are the same on every rank."""
        return tuple(self._owners[entry] for entry in due)

    @property
    def on_steps(self) -> list[MetricRun]:
        """The entries that are measured on steps, less those that have failed."""
        return [entry for entry in self.entries if entry.on_steps and entry not in self._failed]

    def due(self, step: int) -> list[MetricRun]:
        """The entries that are measured at this step."""
        due: list[MetricRun] = []
        for n, entries in self._by_period.items():
            if step % n == 0:
                due += entries
        for schedule, entries in self._others.items():
            if schedule(step):
                due += entries
        return due

    @property
    def logs(self) -> bool:
        """Whether the set writes the trainer's own numbers."""
        return any("log" in entry.item.metric.events for entry in self.entries)

    def reserves(self, tag: str) -> bool:
        """Whether the tag belongs to a metric."""
        families = {t.partition("<")[0] for entry in self.entries for t in entry.item.metric.tags if "<" in t}
        owned = tag.startswith(tuple(families - {"train/"}))
        return owned or any(tag in entry.tags for entry in self.entries)

    def call(self, context: Context) -> StepValues:
        """Values of the metrics that are written at an event other than a step."""
        batch = StepValues()
        for entry in list(self.entries):
            if context.event in entry.item.metric.events:
                self.run(entry, context, batch)
        return batch

    def run(self, entry: MetricRun, context: Context, batch: StepValues) -> None:
        """Adds what a metric returns; an error is reported once under the metric's name and switches it off."""
        if entry not in self.entries:
            return
        name, owner, started = entry.item.name, self._owners[entry], self._clock()
        if entry in self._failed:
            batch.flag(owner, failed=True)
            return
        try:
            batch.add(entry.item.metric(context), owner if context.event == "step" else "")
            entry.cost.add(self._clock() - started, context.step)
        except Exception as error:
            if self._strict:
                raise RuntimeError(f"metric {name} failed at step {context.step}: {error}") from error
            tags = ", ".join(entry.item.metric.tags)
            logger.warning(
                "metric %s failed at step %d and is switched off; %s will be missing: %r",
                name,
                context.step,
                tags,
                error,
            )
            if owner:
                self._failed.add(entry)
                batch.flag(owner, failed=True)
            else:
                self._remove(entry)

    def give_way(self, logs: Iterable[str]) -> None:
        """Leaves out metrics of steps whose tags the trainer logs itself, with one warning each."""
        for entry in list(self.entries):
            same = [tag for tag in logs if tag in entry.tags] if entry.on_steps else []
            if same:
                logger.warning("the trainer logs %s itself; metric %s is left out", same[0], entry.item.name)
                self._remove(entry)

    def _remove(self, entry: MetricRun) -> None:
        self.entries.remove(entry)
        self.needs = needs_of(self.entries)
        self.regroup()


def needs_of(entries: Sequence[MetricRun], optimizer: str | None = None) -> frozenset[str]:
    """What entries need; only those that are measured in the step of one optimizer, if it is named."""
    chosen = (entry for entry in entries if optimizer in (None, entry.optimizer))
    return frozenset(need for entry in chosen for need in entry.item.metric.needs)


_LATE = frozenset({"batches", "loss_scale", "losses", "predictions"})


class EndOfStepRuns:
    """Entries that wait for the end of their step."""

    def __init__(self) -> None:
        self.waiting: list[tuple[MetricRun, Context]] = []

    def takes(self, entry: MetricRun, context: Context) -> bool:
        """Whether the entry has to wait, and does now; its tensors' statistics are taken at once."""
        needs = entry.item.metric.needs
        if _LATE.isdisjoint(needs):
            return False
        if entry.item.select is not None:
            for tensors in (context.gradients, context.weights):
                tensors.take(nonfinite="nonfinite" in needs)
        self.waiting.append((entry, replace(context, state=None)))  # which holds gradients
        return True

    def finish(self, program: MetricRunner, counters: Counters, publisher: Publisher) -> None:
        """Runs what has waited."""
        waiting, self.waiting = self.waiting, []
        for entry, context in waiting:
            program.run(entry, with_interval(entry, context, counters), publisher.batch(context.step))


def with_interval(entry: MetricRun, context: Context, counters: Counters) -> Context:
    """The context with what was counted since the entry's last point, which is now."""
    now = counters.totals()
    interval, entry.last = now.since(entry.last), now
    needs = entry.item.metric.needs
    if "predictions" in needs:
        counters.predictions.explain()
    if "losses" in needs:
        interval = replace(
            interval, extra_losses={name: Mean(*sums) for name, sums in counters.extra_losses.take().items()}
        )
    return replace(context, interval=interval)
