"""Running totals of a run, read as what happened between two points."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbx_callbacks.context import Interval
from tbx_callbacks.values import Number

_KEPT = 32  # tensors kept before they are added up: a few kernels now and then instead of several a step


class Stopwatch:
    """Seconds of training; evaluation and saving are left out with `pause` and `resume`.

    `monitoring` is how much of it measuring and publishing took.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.monitoring = 0.0
        self._passed = 0.0
        self._since: float | None = None

    def resume(self) -> None:
        """Starts, or goes on after a pause."""
        if self._since is None:
            self._since = self.clock()

    def pause(self) -> None:
        """Stops counting."""
        self._passed, self._since = self.seconds, None

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
    samples: int = 0
    token_batches: int = 0
    tokens: Number = 0
    losses: int = 0
    nonfinite_losses: Number = 0
    clip_steps: int = 0
    clipped_steps: Number = 0

    def since(self, last: Totals) -> Interval:
        """What was counted after `last`."""
        return Interval(
            steps=self.steps - last.steps,
            seconds=self.seconds - last.seconds,
            monitoring=self.monitoring - last.monitoring,
            samples=self.samples - last.samples,
            tokens=self.tokens - last.tokens if self.token_batches > last.token_batches else None,
            losses=self.losses - last.losses,
            nonfinite_losses=self.nonfinite_losses - last.nonfinite_losses,
            clip_steps=self.clip_steps - last.clip_steps,
            clipped_steps=self.clipped_steps - last.clipped_steps,
        )


class Counters:
    """Counts steps and micro-batches. Tensors stay on their device; nothing waits for them."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch
        self.steps = 0
        self._samples = self._token_batches = self._losses = self._clip_steps = 0
        self._tokens = Deferred(add_up)
        self._nonfinite = Deferred(_count_nonfinite)
        self._clipped = Deferred(self._count_clipped)
        self._max_norm = 0.0

    def batch(self, *, loss: Tensor | None, samples: int, tokens: Tensor | None) -> None:
        """One micro-batch of training: its loss (0-d), its samples, its tokens (their number, or their mask)."""
        self._samples += samples
        if loss is not None:
            self._losses += 1
            self._nonfinite.add(loss)
        if tokens is not None:
            self._token_batches += 1
            self._tokens.add(tokens)

    def clip(self, norm: Tensor, max_norm: float) -> None:
        """One step whose gradient had this norm before it was clipped; see torch.nn.utils.clip_grad_norm_ for 1e-6."""
        if max_norm != self._max_norm:
            self._clipped.total()  # of the limit so far
            self._max_norm = max_norm
        self._clip_steps += 1
        self._clipped.add(norm)

    def totals(self) -> Totals:
        """Everything so far."""
        return Totals(
            steps=self.steps,
            seconds=self.stopwatch.seconds,
            monitoring=self.stopwatch.monitoring,
            samples=self._samples,
            token_batches=self._token_batches,
            tokens=self._tokens.total(),
            losses=self._losses,
            nonfinite_losses=self._nonfinite.total(),
            clip_steps=self._clip_steps,
            clipped_steps=self._clipped.total(),
        )

    def _count_clipped(self, norms: Sequence[Tensor]) -> Tensor:
        return (_together(norms) + 1e-6 > self._max_norm).sum()


class Deferred:
    """Adds up a function of many small tensors, several at a time. They are kept until then."""

    def __init__(self, function: Callable[[Sequence[Tensor]], Tensor]) -> None:
        self._function = function
        self._kept: list[Tensor] = []
        self._total: Number = 0

    def add(self, tensor: Tensor) -> None:
        """Keeps a tensor for later; its contents must stay."""
        self._kept.append(tensor)
        if len(self._kept) >= _KEPT:
            self.total()

    def total(self) -> Number:
        """The sum so far, 0-d."""
        if self._kept:
            self._total = self._total + self._function(self._kept)
            self._kept.clear()
        return self._total


def add_up(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of all elements of all tensors, 0-d."""
    return _together([tensor.sum() if tensor.ndim else tensor for tensor in tensors]).sum()


def _count_nonfinite(losses: Sequence[Tensor]) -> Tensor:
    return _together(losses).isfinite().logical_not().sum()


def _together(scalars: Sequence[Tensor]) -> Tensor:
    return torch.stack([scalar.to(scalars[0].device) for scalar in scalars])
