"""Counts steps, micro-batches, samples, tokens and time, and computes the difference between two points."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from tbx_callbacks._engine.clip_probe import count_changed
from tbx_callbacks._engine.microbatch_gradients import MicrobatchGradients
from tbx_callbacks._engine.recording import Recording
from tbx_callbacks._engine.row_lengths import RowLengths
from tbx_callbacks._engine.step_times import StepTimes
from tbx_callbacks._model.amp import LossScale
from tbx_callbacks._model.outputs import Losses, Predictions
from tbx_callbacks._stats.accumulators import KEPT, LazySum, add_up, kept, stack_scalars
from tbx_callbacks._stats.clip_factor import is_clipped
from tbx_callbacks._stats.types import Number
from tbx_callbacks._wiring.wiring import Wiring
from tbx_callbacks.metrics.context import Interval
from tbx_callbacks.tags import TIME_DATA, TIME_EVALUATION, TIME_FORWARD, TIME_OTHER


class Stopwatch:
    """Seconds of training. `pause` and `resume` exclude evaluation and saving.

    Where an evaluation is noticed only after it began, `exclude` leaves out the time since the last `mark`, which says
    that the training ran until then.

    `monitoring` is the time spent on measuring and publishing. `waiting` is the time between `start_waiting` and
    `stop_waiting`, and `waits` the number of such waits.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.monitoring = self.waiting = 0.0
        self.waits = 0
        self._elapsed = 0.0
        self._resumed_at: float | None = None
        self.marked_at = 0.0
        """Time of the last mark."""
        self._wait_started: float | None = None
        self.times: StepTimes | None = None
        """Splits the time into parts, where a metric reads them."""

    def resume(self) -> None:
        """Starts or resumes counting; a mark too."""
        self.marked_at = self.clock()
        if self.times is not None:
            self.times.mark()
        if self._resumed_at is None:
            self._resumed_at = self.marked_at

    def pause(self) -> None:
        """Stops counting."""
        seconds = self.seconds
        self._resumed_at = self._wait_started = None  # first: another thread may read `seconds`, and must not see more
        self._elapsed = seconds
        if self.times is not None:
            self.times.mark()

    @property
    def is_running(self) -> bool:
        """Whether time is counted."""
        return self._resumed_at is not None

    def mark(self) -> None:
        """Records that all time until now belongs to the training."""
        self.marked_at = self.clock()
        if self.times is not None:
            self.times.mark()

    def exclude(self, part: str = TIME_EVALUATION) -> None:
        """Stops counting, and leaves out the time since the last mark: something else began after it.

        Args:
            part: what it was, as the tag of its time.
        """
        if self.times is not None:
            self.times.exclude(part)
        resumed_at = self._resumed_at
        self._resumed_at = self._wait_started = None
        if resumed_at is not None:
            self._elapsed += max(0.0, self.marked_at - resumed_at)

    def start_waiting(self) -> None:
        """Starts a wait: the training asks for its next batch and does nothing else until it has it."""
        self._wait_started = self.clock()
        if self.times is not None:
            self.times.switch(TIME_OTHER if self.times.sees_fetches else TIME_DATA)

    def restart_waiting(self) -> None:
        """Restarts a wait that is in progress, because other work was done since `start_waiting`."""
        if self._wait_started is not None:
            self._wait_started = self.clock()

    def cancel_waiting(self) -> None:
        """Discards the wait in progress: other work of unknown length follows."""
        self._wait_started = None
        if self.times is not None:
            self.times.switch(TIME_OTHER)

    def stop_waiting(self) -> None:
        """Ends the wait: the batch has arrived."""
        if self._wait_started is not None and self._resumed_at is not None:
            self.waiting += self.clock() - self._wait_started
            self.waits += 1
        self._wait_started = None
        if self.times is not None:
            self.times.switch(TIME_FORWARD)

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        elapsed, resumed_at = self._elapsed, self._resumed_at
        return elapsed + (0.0 if resumed_at is None else self.clock() - resumed_at)


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
        self.row_lengths: RowLengths | None = None
        """Lengths of rows, where a metric reads them."""
        self.microbatches: MicrobatchGradients | None = None
        """Measures the gradients of micro-batches, where a metric reads them."""
        self.wiring: Wiring | None = None
        """The checks of the training, where a metric reads them."""
        self.recording: Recording | None = None
        """The rows of the training's batches, where a metric reads them."""
        self.steps = 0
        self.counting = True
        """Whether micro-batches are counted. False once one could not be counted: later intervals then contain none."""
        self._max_norm = 0.0
        # By the name of their field in Interval. A new counter is a field there, an entry here, and a line that counts.
        names = ("batches", "sample_batches", "samples", "token_batches", "losses", "clip_steps")
        self._counts: dict[str, Any] = dict.fromkeys(names, 0)
        self._sums = {
            "tokens": LazySum(add_up),
            "nonfinite_losses": LazySum(_count_nonfinite),
            "clipped_steps": LazySum(self._count_clipped),
        }
        self._probed, self._seen_clipped = LazySum(count_changed), 0

    def record_batch(self, *, loss: Tensor | None, samples: int | None, tokens: Tensor | None) -> Number | None:
        """Counts one micro-batch of training.

        Args:
            loss: 0-d.
            samples: number of samples; None if it is unknown.
            tokens: number of tokens, or their mask; None if it is unknown.

        Returns:
            The loss as `kept` returns it. The next micro-batch may overwrite the memory of the model's own tensor, as
            CUDA graphs do.
        """
        counts, now = self._counts, None
        counts["batches"] += 1
        if self.microbatches is not None:
            self.microbatches.end_batch(samples)
        if samples is not None:
            counts["sample_batches"] += 1
            counts["samples"] += samples
        if loss is not None:
            counts["losses"] += 1
            now = kept(loss)
            self._sums["nonfinite_losses"].pending.append(now)
        if tokens is not None:
            counts["token_batches"] += 1
            self._sums["tokens"].pending.append(tokens.sum() if tokens.ndim else tokens)
        if counts["batches"] % KEPT == 0:
            self._sums["nonfinite_losses"].total()
            self._sums["tokens"].total()
        return now

    def record_clipping(self, norm: Tensor, max_norm: float) -> None:
        """Counts one step whose gradient had this norm before clipping."""
        clipped = self._sums["clipped_steps"]
        if max_norm != self._max_norm:
            clipped.total()  # with the previous limit
            self._max_norm = max_norm
        self._counts["clip_steps"] += 1
        clipped.pending.append(norm)
        if self._counts["clip_steps"] % KEPT == 0:
            clipped.total()

    def record_clipped(self, result: Tensor | bool) -> None:
        """Counts one step, by the result of `ClipProbe.end`."""
        self._counts["clip_steps"] += 1
        if isinstance(result, Tensor):
            self._probed.add(result)
        else:
            self._seen_clipped += result

    def totals(self) -> Interval:
        """All counts so far."""
        self.stopwatch.mark()  # the point includes the time until now
        hits, predictions = self.predictions.totals()
        stopwatch, loss_scale = self.stopwatch, self.loss_scale
        sums: dict[str, Any] = {name: total.total() for name, total in self._sums.items()}
        sums["clipped_steps"] = sums["clipped_steps"] + self._probed.total() + self._seen_clipped
        return Interval(
            **self._counts,
            **sums,
            incomplete=self._incomplete(),
            steps=self.steps,
            seconds=stopwatch.seconds,
            monitoring=stopwatch.monitoring,
            waits=stopwatch.waits,
            waiting=stopwatch.waiting,
            times=stopwatch.times.totals() if stopwatch.times is not None else None,
            hits=hits,
            predictions=predictions,
            class_counts=self.predictions.class_totals(),
            skipped_steps=loss_scale.skipped if loss_scale else 0,
            loss_scale=loss_scale.now if loss_scale else None,
        )

    def _incomplete(self) -> frozenset[str]:
        """The counts that lack a micro-batch since the start of the training."""
        counts = self._counts
        counted = {"samples": counts["sample_batches"], "tokens": counts["token_batches"]}
        return frozenset(name for name, number in counted.items() if not self.counting or number < counts["batches"])

    def since(self, last: Interval) -> tuple[Interval, Interval]:
        """Returns the counters since `last`, and the totals. Batches are left out once some could not be counted."""
        totals = self.totals()
        interval = totals - last
        return (interval if self.counting else replace(interval, **_NO_BATCHES)), totals

    def _count_clipped(self, norms: Sequence[Tensor]) -> Tensor:
        return is_clipped(stack_scalars(norms), self._max_norm).sum()


_NO_BATCHES: dict[str, Any] = {
    "batches": 0, "sample_batches": 0, "samples": None, "token_batches": 0, "tokens": None, "losses": 0,
    "nonfinite_losses": 0,
}  # fmt: skip


def _count_nonfinite(losses: Sequence[Number]) -> Tensor:
    return stack_scalars(losses).isfinite().logical_not().sum()
