"""Counts steps, micro-batches, samples, tokens and time, and computes the difference between two points."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tbx_callbacks._model.amp import LossScale
from tbx_callbacks._model.outputs import Losses, Predictions
from tbx_callbacks._stats.accumulators import KEPT, LazySum, add_up, stack_scalars
from tbx_callbacks._stats.clip_factor import is_clipped
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.context import Interval


class Stopwatch:
    """Seconds of training. `pause` and `resume` exclude evaluation and saving.

    `monitoring` is the time spent on measuring and publishing. `waiting` is the time between `start_waiting` and
    `stop_waiting`, and `waits` the number of such waits.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.monitoring = self.waiting = 0.0
        self.waits = 0
        self._elapsed = 0.0
        self._resumed_at: float | None = None
        self._wait_started: float | None = None

    def resume(self) -> None:
        """Starts or resumes counting."""
        if self._resumed_at is None:
            self._resumed_at = self.clock()

    def pause(self) -> None:
        """Stops counting."""
        self._elapsed, self._resumed_at, self._wait_started = self.seconds, None, None

    def start_waiting(self) -> None:
        """Starts a wait: the training asks for its next batch and does nothing else until it has it."""
        self._wait_started = self.clock()

    def restart_waiting(self) -> None:
        """Restarts a wait that is in progress, because other work was done since `start_waiting`."""
        if self._wait_started is not None:
            self._wait_started = self.clock()

    def cancel_waiting(self) -> None:
        """Discards the wait in progress: other work of unknown length follows."""
        self._wait_started = None

    def stop_waiting(self) -> None:
        """Ends the wait: the batch has arrived."""
        if self._wait_started is not None and self._resumed_at is not None:
            self.waiting += self.clock() - self._wait_started
            self.waits += 1
        self._wait_started = None

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        return self._elapsed + (0.0 if self._resumed_at is None else self.clock() - self._resumed_at)


@dataclass(frozen=True)
class Totals:
    """All counts since the run began."""

    steps: int = 0
    seconds: float = 0.0
    monitoring: float = 0.0
    waiting: float = 0.0
    waits: int = 0
    samples: int = 0
    token_batches: int = 0
    tokens: Number = 0
    losses: int = 0
    nonfinite_losses: Number = 0
    counted: bool = True
    clip_steps: int = 0
    clipped_steps: Number = 0
    skipped_steps: Number = 0
    loss_scale: Number | None = None
    hits: Number = 0
    predictions: Number = 0

    def since(self, last: Totals) -> Interval:
        """The counts between `last` and now."""
        batches = self if self.counted else last  # no batch counts where some could not be counted
        return Interval(
            steps=self.steps - last.steps,
            seconds=self.seconds - last.seconds,
            monitoring=self.monitoring - last.monitoring,
            waiting=self.waiting - last.waiting if self.waits > last.waits else None,
            samples=batches.samples - last.samples,
            tokens=batches.tokens - last.tokens if batches.token_batches > last.token_batches else None,
            losses=batches.losses - last.losses,
            nonfinite_losses=batches.nonfinite_losses - last.nonfinite_losses,
            clip_steps=self.clip_steps - last.clip_steps,
            clipped_steps=self.clipped_steps - last.clipped_steps,
            skipped_steps=self.skipped_steps - last.skipped_steps,
            loss_scale=self.loss_scale,
            hits=self.hits - last.hits,
            predictions=self.predictions - last.predictions,
        )


class Counters:
    """Counts steps and micro-batches. Tensors stay on their device, without a host sync.

    Args:
        stopwatch: times the training.
        loss_scale: the loss scale, where a metric reads it.
        predictions: compares the model's predictions with the labels.
    """

    def __init__(
        self,
        stopwatch: Stopwatch,
        loss_scale: LossScale | None = None,
        predictions: Predictions | None = None,
    ) -> None:
        self.extra_losses, self.predictions = Losses(), predictions or Predictions()
        self.stopwatch = stopwatch
        self.loss_scale = loss_scale
        self.steps = 0
        self.counting = True
        """Whether micro-batches are counted. False once one could not be counted: later intervals then contain none."""
        self._batches = self._samples = self._token_batches = self._losses = self._clip_steps = 0
        self._tokens = LazySum(add_up)
        self._nonfinite = LazySum(_count_nonfinite)
        self._clipped = LazySum(self._count_clipped)
        self._max_norm = 0.0

    def record_batch(self, *, loss: Tensor | None, samples: int, tokens: Tensor | None) -> Tensor | None:
        """Counts one micro-batch of training.

        Args:
            loss: 0-d.
            samples: number of samples.
            tokens: number of tokens, or their mask.

        Returns:
            A copy of the loss. The next micro-batch may overwrite the memory of the model's own tensor, as CUDA graphs
            do.
        """
        self._samples += samples
        if loss is not None:
            self._losses += 1
            self._nonfinite.pending.append(loss := loss.clone())
        if tokens is not None:
            self._token_batches += 1
            self._tokens.pending.append(tokens.sum())
        self._batches += 1
        if self._batches % KEPT == 0:
            self._nonfinite.total()
            self._tokens.total()
        return loss

    def record_clipping(self, norm: Tensor, max_norm: float) -> None:
        """Counts one step whose gradient had this norm before clipping."""
        if max_norm != self._max_norm:
            self._clipped.total()  # with the previous limit
            self._max_norm = max_norm
        self._clip_steps += 1
        self._clipped.pending.append(norm)
        if self._clip_steps % KEPT == 0:
            self._clipped.total()

    def totals(self) -> Totals:
        """All counts so far."""
        hits, predictions = self.predictions.totals()
        return Totals(
            hits=hits,
            predictions=predictions,
            steps=self.steps,
            seconds=self.stopwatch.seconds,
            monitoring=self.stopwatch.monitoring,
            waiting=self.stopwatch.waiting,
            waits=self.stopwatch.waits,
            samples=self._samples,
            token_batches=self._token_batches,
            tokens=self._tokens.total(),
            losses=self._losses,
            nonfinite_losses=self._nonfinite.total(),
            counted=self.counting,
            clip_steps=self._clip_steps,
            clipped_steps=self._clipped.total(),
            skipped_steps=self.loss_scale.skipped if self.loss_scale else 0,
            loss_scale=self.loss_scale.now if self.loss_scale else None,
        )

    def _count_clipped(self, norms: Sequence[Tensor]) -> Tensor:
        return is_clipped(stack_scalars(norms), self._max_norm).sum()


def _count_nonfinite(losses: Sequence[Tensor]) -> Tensor:
    return stack_scalars(losses).isfinite().logical_not().sum()
