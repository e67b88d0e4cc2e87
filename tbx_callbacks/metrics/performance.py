"""Defines the metrics that measure speed, waiting for data, and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import psutil
import torch

from tbx_callbacks.metrics.base import Metric, Values
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
class Throughput(Metric):
    """Speed since this metric's last point, without evaluation and saving.

    Samples and tokens are added over ranks and divided by the slowest rank's time. Only tokens that the attention mask
    keeps are counted; without a mask the token rate is not written. `perf/monitor_share` is the share of time that
    metrics and publishing took in the training thread of the slowest rank. Cost: one small sum per micro-batch.
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
