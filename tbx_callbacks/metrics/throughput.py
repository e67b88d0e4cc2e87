"""Speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.context import Context
from tbx_callbacks.metrics.protocol import STEP, Values
from tbx_callbacks.select import Select
from tbx_callbacks.values import Inverse, Max, Rate, Value


@dataclass(frozen=True)
class Throughput:
    """Speed since this metric's last point, evaluation and saving left out.

    Samples and tokens are added over ranks and divided by the slowest rank's time. Tokens are those that the attention
    mask lets through; without a mask they are not written. The monitor's share is what measuring and publishing took of
    the time, in the training thread, on the slowest rank. Cost: one small sum a micro-batch.
    """

    tags: ClassVar[Mapping[str, str]] = {
        "perf/step_s": "s",
        "perf/steps_per_s": "1/s",
        "perf/samples_per_s": "1/s",
        "perf/tokens_per_s": "1/s",
        "perf/monitor_share": "share of the time",
    }
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = frozenset({"batches"})
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "one small sum a micro-batch"

    def __call__(self, context: Context) -> Values:
        interval = context.interval
        if not interval.steps or interval.seconds <= 0:
            return {}
        values: dict[str, Value] = {
            "perf/step_s": Max(interval.seconds / interval.steps),
            "perf/steps_per_s": Inverse(interval.seconds / interval.steps),
            "perf/monitor_share": Max(interval.monitoring / interval.seconds),
        }
        if interval.samples:
            values["perf/samples_per_s"] = Rate(interval.samples, interval.seconds)
        if interval.tokens is not None:
            values["perf/tokens_per_s"] = Rate(interval.tokens, interval.seconds)
        return values
