"""Metrics that need what is complete only when the step is over: its micro-batches, the loss scale after it."""

from __future__ import annotations

from dataclasses import replace

from tbx_callbacks.context import Context
from tbx_callbacks.counters import Counters
from tbx_callbacks.plan import Entry
from tbx_callbacks.program import Program
from tbx_callbacks.publish import Publisher

_LATE = frozenset({"batches", "loss_scale", "losses", "predictions"})


class Late:
    """Entries that wait for the end of their step."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Entry, Context]] = []

    def takes(self, entry: Entry, context: Context) -> bool:
        """Whether the entry has to wait, and does now; its tensors' statistics are taken at once."""
        needs = entry.item.metric.needs
        if _LATE.isdisjoint(needs):
            return False
        if entry.item.select is not None:
            for tensors in (context.gradients, context.weights):
                tensors.take(nonfinite="nonfinite" in needs)
        self.waiting.append((entry, replace(context, state=None)))  # which holds gradients
        return True

    def finish(self, program: Program, counters: Counters, publisher: Publisher) -> None:
        """Runs what has waited."""
        waiting, self.waiting = self.waiting, []
        for entry, context in waiting:
            program.run(entry, with_interval(entry, context, counters), publisher.batch(context.step))


def with_interval(entry: Entry, context: Context, counters: Counters) -> Context:
    """The context with what was counted since the entry's last point, which is now."""
    now = counters.totals()
    interval, entry.last = now.since(entry.last), now
    needs = entry.item.metric.needs
    if "predictions" in needs:
        counters.predictions.explain()
    if "losses" in needs:
        interval = replace(interval, extra_losses=counters.extra_losses.take())
    return replace(context, interval=interval)
