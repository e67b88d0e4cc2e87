"""Gradients that are partial sums over ranks still, as sequence parallelism leaves those of its norms."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tbx_callbacks.plan import Entry
from tbx_callbacks.reduce import Batch
from tbx_callbacks.source import Source

logger = logging.getLogger(__name__)


class Unsummed:
    """Leaves out, on all ranks, what is made of such gradients: no norm can be had of a sum's parts."""

    def __init__(self) -> None:
        self._said = False

    def flag(self, source: Source, due: Sequence[Entry], name: str, batch: Batch) -> None:
        """Flags what is due in the step of the optimizer called `name`."""
        places = source.unsummed(name)
        if not places:
            return
        for entry in due:
            if entry.optimizer == name and "gradients" in entry.item.metric.needs:
                for tag, members in entry.tags.items():
                    if not members or not places.isdisjoint(members):
                        batch.flag(tag, failed=True)
        if not self._said:
            self._said = True
            names = [source.parameters[place].name for place in sorted(places)]
            logger.warning(
                "gradients of %s are DTensors of partial sums (sequence parallelism), so numbers made of them are left"
                " out (remedy: before the step, p.grad = p.grad.redistribute(placements=p.placements))",
                f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}",
            )
