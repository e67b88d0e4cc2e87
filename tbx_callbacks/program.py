"""What runs: the entries of a set on a model, asked which are due, and called so that none can end the training."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from tbx_callbacks.context import Context
from tbx_callbacks.counters import Stopwatch
from tbx_callbacks.plan import Entry
from tbx_callbacks.reduce import Batch
from tbx_callbacks.schedule import Every, Schedule

logger = logging.getLogger(__name__)


class Program:
    """Entries by their schedules.

    Args:
        entries: what `plan` made.
        strict: raise errors of metrics instead of switching them off.
        clock: times the metrics.
        shared: whether other ranks run the same: one that fails here stays due, and says so to them.
    """

    def __init__(
        self, entries: Sequence[Entry], *, strict: bool, clock: Callable[[], float], shared: bool = False
    ) -> None:
        self.entries, self._strict, self._clock = list(entries), strict, clock
        self._owners = {entry: f"{place} {entry.item.name}" if shared else "" for place, entry in enumerate(entries)}
        self._failed: set[Entry] = set()
        self.needs = needs_of(entries)
        """What the metrics need at any step."""
        self.regroup()

    def regroup(self) -> None:
        """Schedules have changed."""
        self._by_period: dict[int, list[Entry]] = {}  # most schedules: they need no call to be asked
        self._others: dict[Schedule, list[Entry]] = {}
        for entry in self.entries:
            if entry.on_steps and isinstance(entry.schedule, Every):
                self._by_period.setdefault(entry.schedule.n, []).append(entry)
            elif entry.on_steps:
                self._others.setdefault(entry.schedule, []).append(entry)

    def key(self, due: Sequence[Entry]) -> tuple[str, ...]:
        """What is due, in words that are the same on every rank."""
        return tuple(self._owners[entry] for entry in due)

    @property
    def on_steps(self) -> list[Entry]:
        """The entries that are measured on steps, less those that have failed."""
        return [entry for entry in self.entries if entry.on_steps and entry not in self._failed]

    def due(self, step: int) -> list[Entry]:
        """The entries that are measured at this step."""
        due: list[Entry] = []
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

    def call(self, context: Context) -> Batch:
        """Values of the metrics that are written at an event other than a step."""
        batch = Batch()
        for entry in list(self.entries):
            if context.event in entry.item.metric.events:
                self.run(entry, context, batch)
        return batch

    def run(self, entry: Entry, context: Context, batch: Batch) -> None:
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

    def _remove(self, entry: Entry) -> None:
        self.entries.remove(entry)
        self.needs = needs_of(self.entries)
        self.regroup()


def needs_of(entries: Sequence[Entry], optimizer: str | None = None) -> frozenset[str]:
    """What entries need; only those that are measured in the step of one optimizer, if it is named."""
    chosen = (entry for entry in entries if optimizer in (None, entry.optimizer))
    return frozenset(need for entry in chosen for need in entry.item.metric.needs)


def _on_host() -> contextlib.AbstractContextManager[object]:
    """Tensors that are made without naming a device are on the CPU, whatever torch.set_default_device chose."""
    return contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


class Guard:
    """Nothing of ours may end the training: an error is said once, and what it concerns is left out.

    Args:
        strict: raise errors.
        stopwatch: is told what time went by in here.
    """

    def __init__(self, *, strict: bool, stopwatch: Stopwatch) -> None:
        self._strict, self._stopwatch, self.clock = strict, stopwatch, stopwatch.clock
        self._said: set[str] = set()

    @contextlib.contextmanager
    def __call__(self, what: str, step: int) -> Iterator[None]:
        started = self._stopwatch.clock()
        try:
            with _on_host():
                yield
        except Exception as error:
            self.failed(what, step, error)
        finally:
            self._stopwatch.monitoring += self._stopwatch.clock() - started

    def failed(self, what: str, step: int, error: Exception) -> None:
        """Says it once, or raises."""
        if self._strict:
            raise error
        if what not in self._said:
            self._said.add(what)
            logger.warning("%s failed at step %d; its numbers are left out: %r", what, step, error)
