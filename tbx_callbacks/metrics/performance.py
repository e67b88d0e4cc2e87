"""Speed, waiting for data, and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import psutil
import torch

from tbx_callbacks._model.parameters import Select
from tbx_callbacks.metrics.base import NOTHING, STEP, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Inverse, Max, RankOfMax, Rate, Value
from tbx_callbacks.tags import (
    INPUT_SHARE,
    MEMORY_LARGEST_RANK,
    MEMORY_PEAK,
    MEMORY_RESERVED,
    MEMORY_RSS,
    MONITOR_SHARE,
    SAMPLES_PER_SECOND,
    STEP_SECONDS,
    STEPS_PER_SECOND,
    TOKENS_PER_SECOND,
)


@dataclass(frozen=True)
class Throughput:
    """Speed since this metric's last point, evaluation and saving left out.

    Samples and tokens are added over ranks and divided by the slowest rank's time. Tokens are those that the attention
    mask lets through; without a mask they are not written. The monitor's share is what measuring and publishing took of
    the time, in the training thread, on the slowest rank. Cost: one small sum a micro-batch.
    """

    tags: ClassVar[Mapping[str, str]] = {
        STEP_SECONDS: "s",
        STEPS_PER_SECOND: "1/s",
        SAMPLES_PER_SECOND: "1/s",
        TOKENS_PER_SECOND: "1/s",
        MONITOR_SHARE: "share of the time",
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
            STEP_SECONDS: Max(interval.seconds / interval.steps),
            STEPS_PER_SECOND: Inverse(interval.seconds / interval.steps),
            MONITOR_SHARE: Max(interval.monitoring / interval.seconds),
        }
        if interval.samples:
            values[SAMPLES_PER_SECOND] = Rate(interval.samples, interval.seconds)
        if interval.tokens is not None:
            values[TOKENS_PER_SECOND] = Rate(interval.tokens, interval.seconds)
        return values


@dataclass(frozen=True)
class InputShare:
    """Share of the training time, since the last point, in which the training waited for its next batch.

    Under the Hugging Face Trainer what goes by between its last event of a step and its first of the next one (all
    micro-batches of a step are fetched there), under Lightning between the end of a batch and the start of the next,
    in a loop inside of `loop.track(batches)` while the model trains; without `track` it is not written. Evaluation and
    saving are no waiting, and the wait that they interrupt is not counted. The rank that waited longest counts. Two
    readings of the clock a step.
    """

    tags: ClassVar[Mapping[str, str]] = {INPUT_SHARE: "share of the time"}
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        interval = context.interval
        if interval.waiting is None or interval.seconds <= 0:
            return {}
        return {INPUT_SHARE: Max(interval.waiting / interval.seconds)}


_GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Memory of the process, in GiB; the largest over ranks.

    `memory/rss_gib` is the resident set now; `memory/peak_gib` and `memory/reserved_gib` are torch's peaks of allocated
    and reserved CUDA memory since the start of the process, written where there is CUDA. `memory/largest_rank` is the
    rank that needs most, of peaks where there are any; written with several ranks. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {
        MEMORY_RSS: "GiB",
        MEMORY_PEAK: "GiB",
        MEMORY_RESERVED: "GiB",
        MEMORY_LARGEST_RANK: "rank",
    }
    events: ClassVar[frozenset[str]] = STEP
    needs: ClassVar[frozenset[str]] = NOTHING
    select: ClassVar[Select | None] = None
    cost: ClassVar[str] = "none"

    def __call__(self, context: Context) -> Values:
        amount = psutil.Process().memory_info().rss
        values: dict[str, Value] = {MEMORY_RSS: Max(amount / _GIB)}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            amount = torch.cuda.max_memory_allocated()
            values[MEMORY_PEAK] = Max(amount / _GIB)
            values[MEMORY_RESERVED] = Max(torch.cuda.max_memory_reserved() / _GIB)
        rank = context.run.rank
        if rank is not None:
            values[MEMORY_LARGEST_RANK] = RankOfMax(amount // 1024, rank)
        return values
