"""Defines the metric that splits the time of a step into its parts, and tells the time that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context, Seconds
from tbx_callbacks.metrics.values import Max, Mean, Part, RankOfMax, Value
from tbx_callbacks.tags import (
    TIME_BACKWARD,
    TIME_CALLBACKS,
    TIME_CLIP,
    TIME_DATA,
    TIME_EVALUATION,
    TIME_FORWARD,
    TIME_LEFT,
    TIME_MONITORING,
    TIME_OPTIMIZER,
    TIME_OTHER,
    TIME_SAVING,
    TIME_SLOWEST_LEAD,
    TIME_SLOWEST_RANK,
)

PARTS = (
    TIME_DATA,
    TIME_FORWARD,
    TIME_BACKWARD,
    TIME_CLIP,
    TIME_OPTIMIZER,
    TIME_CALLBACKS,
    TIME_EVALUATION,
    TIME_SAVING,
    TIME_MONITORING,
    TIME_OTHER,
)
_OWN_WORK = (TIME_DATA, TIME_FORWARD, TIME_CALLBACKS)
"""Parts in which a rank works by itself, and seldom waits for others."""


@dataclass(frozen=True)
class Lead(Value):
    """The largest amount over ranks less the mean amount, as a share of the largest whole."""

    amount: Part
    whole: Part

    def sums(self) -> tuple[Part, ...]:
        return (self.amount, 1.0)

    def maxes(self) -> tuple[Part, ...]:
        return (self.amount, self.whole)

    def result(self, sums: Sequence[float], maxes: Sequence[float]) -> float | None:
        return (maxes[0] - sums[0] / sums[1]) / maxes[1] if maxes[1] > 0 else None


@dataclass(frozen=True)
class StepTime(Metric):
    """Seconds per step since the last point, split into the parts of a step; and the seconds until the training ends.

    The parts add up to the time that passed; none overlap. They are times of the training thread (host times). A GPU
    works behind that thread: a kernel's time is counted where the thread waits for the device, often in `backward` or
    `other`. Nothing waits for a device to measure it.

    - `data`: waiting for batches. HF Trainer without `attach`: all from the end of a step to the next one, with other
      callbacks and logging. A loop needs `loop.track`; without it, this time is in `other`.
    - `forward`: from the arrival of a batch to the backward pass: preparation, model and loss. In a loop without
      `track`, from the model's forward pass on.
    - `backward`: from the loss on under the trainers; from the model's outputs on in a loop and without `attach`.
      With the gradients' reduction over ranks.
    - `clip`: from the backward pass to the optimizer's step: unscaling, clipping and what else happens there. HF
      Trainer with `attach`: from the call that clips.
    - `optimizer`: the optimizer's `step`.
    - `callbacks`: other callbacks of the trainer. HF Trainer without `attach`, and loops: not seen, in the part where
      they run.
    - `evaluation` and `saving`. A loop's saving is in `evaluation` or `other`.
    - `monitoring`: this package's own time.
    - `other`: the rest, such as schedulers, zeroing gradients and the trainer's own bookkeeping.

    `time/left_s` is the number of steps left times the mean time of a step so far, with evaluation and saving. It needs
    a trainer that knows its last step. The first point counts no longer from the second on.

    Parts are means over ranks. With several ranks, `time/slowest_rank` is the rank with the most time in `data`,
    `forward` and `callbacks`: in the others ranks wait for one another. `time/slowest_lead` is how much more that is
    than the mean of all ranks, as a share of the step. Under FSDP ranks wait in `forward` too, which makes it smaller.
    Cost: some thirty clock readings a step.
    """

    tags: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(PARTS, "s"),
        TIME_LEFT: "s",
        TIME_SLOWEST_RANK: "rank",
        TIME_SLOWEST_LEAD: "share of the step",
    }
    needs: ClassVar[frozenset[str]] = frozenset({"times"})
    cost: ClassVar[str] = "some thirty clock readings a step"

    def __call__(self, context: Context) -> Values:
        steps, times = context.interval.steps, context.interval.times
        if not steps or times is None:
            return {}
        values: dict[str, Value] = {tag: Mean(times[tag], steps) for tag in PARTS if tag in times}
        if (left := _seconds_left(context, times)) is not None:
            values[TIME_LEFT] = Max(left)
        rank = context.run.rank
        if rank is not None:
            own, whole = (sum(times.get(tag, 0.0) for tag in parts) / steps for parts in (_OWN_WORK, PARTS))
            values[TIME_SLOWEST_RANK] = RankOfMax(min(round(own * 1e6), 2**36), rank)
            values[TIME_SLOWEST_LEAD] = Lead(own, whole)
        return values


def _seconds_left(context: Context, times: Seconds) -> float | None:
    """The time of the remaining steps at the speed since the first point, or at that of the first one."""
    seconds, steps = sum(times.values()), context.interval.steps
    last, state = context.run.last_step, context.state
    if "seconds" in state:
        state["seconds"], state["steps"] = state["seconds"] + seconds, state["steps"] + steps
        seconds, steps = state["seconds"], state["steps"]
    else:
        state.update(seconds=0.0, steps=0)
    return None if last is None else max(0, last - context.step) * seconds / steps
