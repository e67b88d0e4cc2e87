"""Waiting for data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import NOTHING, STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Max


@dataclass(frozen=True)
class InputShare:
    """Share of the training time, since the last point, in which the training waited for its next batch.

    Under the Hugging Face Trainer what goes by between its last event of a step and its first of the next one (all
    micro-batches of a step are fetched there), under Lightning between the end of a batch and the start of the next,
    in a loop inside of `loop.track(batches)` while the model trains; without `track` it is not written. Evaluation and
    saving are no waiting, and the wait that they interrupt is not counted. The rank that waited longest counts. Two
    readings of the clock a step.
    """

    tags: ClassVar[Mapping[str, str]] = {"perf/input_share": "share of the time"}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        interval = context.interval
        if interval.waiting is None or interval.seconds <= 0:
            return {}
        return {"perf/input_share": Max(interval.waiting / interval.seconds)}
