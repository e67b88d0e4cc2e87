"""Defines the metrics that measure speed, waiting for data, and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import psutil
import torch

from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.values import Inverse, Max, RankOfMax, Rate, Unless, Value
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


def counted(make: Callable[[Number], Value], count: Number | None, is_complete: bool = True) -> Value:
    """The value of a count; left out on all ranks where it is unknown on any rank: a sum of the others is too small."""
    is_known = count is not None and is_complete
    return Unless(make(0.0 if count is None else count), 0.0 if is_known else 1.0)


@dataclass(frozen=True)
class Throughput(Metric):
    """Speed since this metric's last point, without evaluation and saving.

    In a plain loop, an evaluation is the time between a step and `loop.evaluate`, and that in `with loop.evaluation()`.
    Samples and tokens are added over ranks and divided by the slowest rank's time. Tokens are those that the attention
    mask keeps. A packed batch (one row without a mask) has no padding, so all its token ids count. A rate is left out
    at a point where the number of some micro-batch is unknown on any rank. `perf/monitor_share` is the share of time
    that metrics and publishing took in the training thread of the slowest rank. Cost: one small sum per micro-batch.
    """

    tags: ClassVar[Mapping[str, str]] = {
        STEP_SECONDS: "s",
        STEPS_PER_SECOND: "1/s",
        SAMPLES_PER_SECOND: "1/s",
        TOKENS_PER_SECOND: "1/s",
        MONITOR_SHARE: "share of the time",
    }
    needs: ClassVar[frozenset[str]] = frozenset({"batches"})
    cost: ClassVar[str] = "one small sum a micro-batch"

    def __call__(self, context: Context) -> Values:
        interval = context.interval
        if not interval.steps or interval.seconds <= 0:
            return {}
        return {
            STEP_SECONDS: Max(interval.seconds / interval.steps),
            STEPS_PER_SECOND: Inverse(interval.seconds / interval.steps),
            MONITOR_SHARE: Max(interval.monitoring / interval.seconds),
            SAMPLES_PER_SECOND: counted(partial(Rate, seconds=interval.seconds), interval.samples),
            TOKENS_PER_SECOND: counted(partial(Rate, seconds=interval.seconds), interval.tokens),
        }


@dataclass(frozen=True)
class InputShare(Metric):
    """Share of the training time, since the last point, in which the training waited for its next batch.

    The wait is measured:

    - with the Hugging Face Trainer, from the last event of a step to the first event of the next one: the Trainer
      fetches all micro-batches of a step there;
    - with Lightning, from the end of a batch to the start of the next;
    - in a plain loop, inside `loop.track(batches)` while the model trains; without `track` nothing is written.

    Evaluation and saving do not count as waiting; a wait that they interrupt is not counted. Written for the rank that
    waited longest. Cost: two clock readings per step.
    """

    tags: ClassVar[Mapping[str, str]] = {INPUT_SHARE: "share of the time"}

    def __call__(self, context: Context) -> Values:
        interval = context.interval
        if interval.waiting is None or interval.seconds <= 0:
            return {}
        return {INPUT_SHARE: Max(interval.waiting / interval.seconds)}


_GIB = 2**30


@dataclass(frozen=True)
class Memory(Metric):
    """Memory of the process in GiB, the largest over ranks.

    `memory/rss_gib` is the current resident set. `memory/peak_gib` and `memory/reserved_gib` are torch's peaks of
    allocated and reserved CUDA memory since the start of the process; they need CUDA. `memory/largest_rank` is the rank
    that uses most memory: by peak on CUDA, by resident set otherwise. It needs several ranks. Cost: none.
    """

    tags: ClassVar[Mapping[str, str]] = {
        MEMORY_RSS: "GiB",
        MEMORY_PEAK: "GiB",
        MEMORY_RESERVED: "GiB",
        MEMORY_LARGEST_RANK: "rank",
    }

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
