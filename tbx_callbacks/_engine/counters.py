"""Running totals of a run, read as what happened between two points."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tbx_callbacks._model.amp import LossScale
from tbx_callbacks._model.outputs import Losses, Predictions
from tbx_callbacks._stats.accumulators import KEPT, LazySum, add_up, stack_scalars
from tbx_callbacks._stats.clipping import is_clipped
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.context import Interval


class Stopwatch:
    """Seconds of training; evaluation and saving are left out with `pause` and `resume`.

    `monitoring` is how much of it measuring and publishing took, `waiting` how much went by between `wait` and `got`,
    which was `waits` times.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.monitoring = self.waiting = 0.0
        self.waits = 0
        self._passed = 0.0
        self._since: float | None = None
        self._waits_since: float | None = None

    def resume(self) -> None:
        """Starts, or goes on after a pause."""
        if self._since is None:
            self._since = self.clock()

    def pause(self) -> None:
        """Stops counting."""
        self._passed, self._since, self._waits_since = self.seconds, None, None

    def start_waiting(self) -> None:
        """The training asks for its next batch; nothing else is done from now on until it has it."""
        self._waits_since = self.clock()

    def restart_waiting(self) -> None:
        """Something else was done since `wait`: it counts from now on, if it counts."""
        if self._waits_since is not None:
            self._waits_since = self.clock()

    def cancel_waiting(self) -> None:
        """Something else is done, nobody knows for how long: this wait is not counted."""
        self._waits_since = None

    def stop_waiting(self) -> None:
        """The batch is there."""
        if self._waits_since is not None and self._since is not None:
            self.waiting += self.clock() - self._waits_since
            self.waits += 1
        self._waits_since = None

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        return self._passed + (0.0 if self._since is None else self.clock() - self._since)


@dataclass(frozen=True)
class Totals:
    """Everything counted since the run began."""

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
        """What was counted after `last`."""
        batches = self if self.counted else last  # none is seen where some could not be counted
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
    """Counts steps and micro-batches. Tensors stay on their device; nothing waits for them.

    Args:
        stopwatch: times the training.
        loss_scale: the run's, where it is to be watched.
        predictions: what compares the model's with their labels.
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
        """Whether micro-batches are counted; once one could not be, no interval has seen any."""
        self._batches = self._samples = self._token_batches = self._losses = self._clip_steps = 0
        self._tokens = LazySum(add_up)
        self._nonfinite = LazySum(_count_nonfinite)
        self._clipped = LazySum(self._count_clipped)
        self._max_norm = 0.0

    def record_batch(self, *, loss: Tensor | None, samples: int, tokens: Tensor | None) -> Tensor | None:
        """One micro-batch of training: its loss (0-d), its samples, its tokens (their number, or their mask).

        Returns:
            A copy of the loss. The model's own tensor may be its memory again in the next micro-batch: a CUDA graph's.
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
        """One step whose gradient had this norm before it was clipped; see torch.nn.utils.clip_grad_norm_ for 1e-6."""
        if max_norm != self._max_norm:
            self._clipped.total()  # of the limit so far
            self._max_norm = max_norm
        self._clip_steps += 1
        self._clipped.pending.append(norm)
        if self._clip_steps % KEPT == 0:
            self._clipped.total()

    def totals(self) -> Totals:
        """Everything so far."""
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
