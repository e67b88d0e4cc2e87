"""Defines the metric that keeps the batches of steps that went wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.examples import check_texts
from tbx_callbacks.metrics.values import Max
from tbx_callbacks.tags import BAD_BATCHES


@dataclass(frozen=True)
class BadBatches(Metric):
    """Number of steps so far with a loss or a gradient that is not finite or a spike of the loss; keeps their batches.

    Every step is looked at, whatever the cadence. `tbx-callbacks batch RUN STEP` shows the rows of a bad step: ids or
    fingerprints as for `examples`, and for a classifier each row's loss, label and prediction. A spike is a loss, the
    largest of the step's micro-batches, that exceeds the median of the 50 steps before by more than `spike` times their
    noise: 1.4826 times the median absolute deviation, at least 5 % of the median, and at least the precision of a loss
    of 1 (1.2e-7 in float32). The first 20 steps, also those after a resume, have no spikes. The micro-batch in which an
    exception ends the training is bad too.

    Each rank decides from its own losses and gradients, and writes its own batch to
    `bad_batches/step<n>.rank<n>.json`. Averaged gradients (DDP) and those clipped by a norm that is not finite are bad
    on all ranks; other gradients of shards only on the rank of the shard. The number is the largest of a rank. A step
    that the loss scale skips is not bad.

    Until a step is known to be fine, only references to its batch are kept, and the training waits for no device.
    Cost: one pass over the gradients in each step.
    """

    spike: float | None = 6.0
    """Least height of a spike; null looks for numbers that are not finite only."""
    keep: int = 20
    """Largest number of batches that each rank keeps."""
    texts: int = 0
    """Characters of each row's text to keep in the run's folder, at most 2000; 0 keeps no text."""

    tags: ClassVar[Mapping[str, str]] = {BAD_BATCHES: "steps"}
    needs: ClassVar[frozenset[str]] = frozenset({"bad_batches", "batches"})
    cost: ClassVar[str] = "one pass over the gradients in each step"

    def __post_init__(self) -> None:
        check_texts(self.texts)
        if self.spike is not None and not 0 < self.spike < math.inf:
            raise ValueError(f"spike must be above 0, got {self.spike}; null looks for no spikes")
        if not 1 <= self.keep <= 1000:
            raise ValueError(f"keep must be a number of batches from 1 to 1000, got {self.keep}")

    def __call__(self, context: Context) -> Values:
        return {} if context.bad_steps is None else {BAD_BATCHES: Max(context.bad_steps)}
