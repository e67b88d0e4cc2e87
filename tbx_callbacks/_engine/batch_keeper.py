"""Defines `BatchKeeper`, which keeps the batches of the last steps until it is known whether these were bad."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._model.examples import RowLosses
from tbx_callbacks._model.rows import Rows, UnreadRows
from tbx_callbacks._model.sharding.dtensor import local
from tbx_callbacks._stats.accumulators import common_device
from tbx_callbacks._stats.flat import flat, moved
from tbx_callbacks._stats.host_copy import HostCopy

_MAX_STEPS = 32  # that wait for a device
_MAX_MICRO_BATCHES = 256  # of one step
_MAX_BYTES = 1 << 26  # of inputs that are kept
_WINDOW, _MIN_STEPS = 50, 20  # finished steps with which a loss is compared
_LEAST_NOISE = 0.05  # of the losses, as a share of their median
_MAX_OUTPUTS = 1 << 20  # elements of outputs that are held until their micro-batch has ended


@dataclass
class KeptMicroBatch:
    """A micro-batch of a step, while it is not known whether the step is bad."""

    number: int
    loss: Tensor | None = None
    rows: Rows | UnreadRows | None = None
    results: RowLosses | None = None
    outputs: Tensor | None = None
    """Those of the last pass, while the micro-batch is in progress, if they are small."""

    @property
    def has_begun(self) -> bool:
        """Whether anything of it is known."""
        return self.rows is not None or self.loss is not None or self.outputs is not None


@dataclass
class KeptStep:
    """A step whose numbers are on the way to the host."""

    step: int
    micro_batches: list[KeptMicroBatch] = field(default_factory=list)
    bad_gradients: list[Tensor] = field(default_factory=list)
    """Nonzero if gradients are not finite; one for each step of an optimizer."""
    ended_by: list[str] = field(default_factory=list)
    """Why the step is bad in which the training ended."""
    copy: HostCopy | None = None


@dataclass(frozen=True)
class BadStep:
    """A bad step: why, and its micro-batches with their losses."""

    step: int
    reasons: Sequence[str]
    micro_batches: Sequence[KeptMicroBatch]
    losses: Sequence[float | None]
    is_finite: bool = False
    """Whether all losses and gradients are finite: the step is only a spike."""


class BatchKeeper:
    """Keeps references to the micro-batches of a step, and passes those of a bad step on.

    A step is bad if the loss of a micro-batch or a gradient is not finite, or if its largest loss is a spike: it
    exceeds the median of the last 50 steps by more than `spike` times their noise. The first 20 steps have no spikes;
    a resumed training begins anew. The noise is 1.4826 times the median of the absolute deviations from the median, at
    least 5 % of the median, and at least the precision of a loss of 1.
    It is decided when the numbers have reached the host, without waiting for a device. The numbers are those of this
    rank.

    Args:
        on_bad: receives each bad step.
        spike: see above; None looks for numbers that are not finite only.
        judges_losses: whether the losses are those of the training. Otherwise only gradients are judged.
    """

    def __init__(self, on_bad: Callable[[BadStep], None], spike: float | None, *, judges_losses: bool = True) -> None:
        self._on_bad, self._spike, self._judges_losses = on_bad, spike, judges_losses
        self._now = KeptStep(0)
        self._next = KeptMicroBatch(1)
        self._waiting: deque[KeptStep] = deque()
        self._losses: deque[float] = deque(maxlen=_WINDOW)

    # -- a step in progress ------------------------------------------------------------------------------------------

    def add_rows(self, rows: Rows | UnreadRows | None) -> None:
        """Adds the rows of the micro-batch that begins."""
        self._next.rows = rows

    @property
    def rows(self) -> Rows | UnreadRows | None:
        """The rows of the micro-batch in progress, as far as they are known."""
        return self._next.rows

    def add_pass(self, loss: Tensor | None, outputs: Tensor | None) -> None:
        """Keeps the loss and the outputs of the last pass; they are judged if the training ends in this micro-batch."""
        each = self._next
        each.loss = None if loss is None else loss.clone()
        is_small = outputs is not None and outputs.ndim <= 2 and outputs.numel() <= _MAX_OUTPUTS
        each.outputs = outputs if is_small else None

    def add_results(self, results: RowLosses) -> None:
        """Adds what a classifier predicted for them."""
        self._next.results = results

    def end_batch(self, loss: Tensor | None) -> None:
        """Ends the micro-batch; its loss is 0-d, and does not change later."""
        each, self._next = self._next, KeptMicroBatch(self._next.number + 1)
        each.loss, each.outputs = loss if self._judges_losses else None, None
        kept = self._now.micro_batches
        kept.append(each)
        if len(kept) > _MAX_MICRO_BATCHES:
            del kept[0]

    def interrupt(self, error: BaseException | None, classify: Callable[[Tensor, Any], RowLosses | None]) -> None:
        """Ends the micro-batch in progress, if any, because the training has ended in it.

        It is bad if its loss or its outputs are not finite, or if an error has ended the training. Waits for the
        device.

        Args:
            error: what the training raised; None if it is unknown.
            classify: what a classifier predicted, from outputs and labels.
        """
        each = self._next
        if not each.has_begun:
            return
        loss, outputs = each.loss, each.outputs
        self.end_batch(None)
        each.loss = loss
        if outputs is not None:
            if each.results is None and isinstance(each.rows, UnreadRows):
                each.results = classify(outputs, each.rows.labels)
            if outputs.is_floating_point() and not bool(outputs.isfinite().all()):
                self._now.ended_by.append(f"the outputs of micro-batch {each.number} are not finite")
        if isinstance(error, Exception):  # nobody's wish, as KeyboardInterrupt is
            self._now.ended_by.append(f"{type(error).__name__} ended the training in micro-batch {each.number}")

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, skipped: Tensor | None) -> None:
        """Looks at the gradients of an optimizer that has stepped; not if `skipped` is nonzero: the loss scale did."""
        gradients = [
            flat(part)
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and (part := local(parameter.grad)) is not None and part.numel()
        ]
        if not gradients:
            return
        device = common_device(gradients)
        largest = [moved(norm, device).float() for norm in torch._foreach_norm(gradients, math.inf)]
        is_bad = ~torch.stack(largest).isfinite().all()
        if skipped is not None:
            is_bad = is_bad & (moved(skipped, device) == 0)
        self._now.bad_gradients.append(is_bad)

    def begin_step(self, step: int) -> None:
        """Begins a step, and decides about earlier ones whose numbers have reached the host."""
        now, self._now = self._now, KeptStep(step)
        self._next = KeptMicroBatch(1, rows=self._next.rows)
        if now.micro_batches or now.bad_gradients:
            losses = [each.loss for each in now.micro_batches if each.loss is not None]
            now.copy = HostCopy([*losses, *now.bad_gradients])
            self._waiting.append(now)
        while self._waiting and (copy := self._waiting[0].copy) is not None and copy.is_ready:
            self._decide(self._waiting.popleft())
        if len(self._waiting) > _MAX_STEPS:
            self._waiting.popleft()
        self._release_inputs()

    def close(self) -> None:
        """Decides about all steps; waits for the device."""
        self.begin_step(0)
        while self._waiting:
            self._decide(self._waiting.popleft())

    def _release_inputs(self) -> None:
        """Forgets the inputs of the oldest micro-batches, so that all others fit into the memory."""
        left = _MAX_BYTES
        for kept in reversed(self._waiting):
            for each in reversed(kept.micro_batches):
                if isinstance(each.rows, UnreadRows):
                    left -= each.rows.bytes
                    if left < 0:
                        each.rows = None

    # -- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, kept: KeptStep) -> None:
        assert kept.copy is not None
        numbers = iter([part[0] for part in kept.copy.read()])
        losses: list[float | None] = [None if each.loss is None else next(numbers) for each in kept.micro_batches]
        reasons = [
            f"the loss of micro-batch {each.number} is {loss}"
            for each, loss in zip(kept.micro_batches, losses, strict=True)
            if loss is not None and not math.isfinite(loss)
        ]
        if any(numbers):
            reasons.append("gradients are not finite")
        reasons += kept.ended_by
        is_finite = not reasons
        known = [loss for loss in losses if loss is not None and math.isfinite(loss)]
        if known:
            precision = max(torch.finfo(each.loss.dtype).eps for each in kept.micro_batches if each.loss is not None)
            if (height := self._height(max(known), precision)) is not None:
                reasons.append(height)
            self._losses.append(max(known))
        if reasons:
            self._on_bad(BadStep(kept.step, reasons, kept.micro_batches, losses, is_finite))

    def _height(self, loss: float, precision: float) -> str | None:
        """Describes a spike; None if the loss is none. `precision` is that of a loss of 1."""
        if self._spike is None or len(self._losses) < _MIN_STEPS:
            return None
        middle = statistics.median(self._losses)
        noise = 1.4826 * statistics.median(abs(each - middle) for each in self._losses)
        if loss - middle <= self._spike * max(noise, _LEAST_NOISE * abs(middle), precision):
            return None
        return f"the loss of {loss:.4g} is a spike: the median of {len(self._losses)} steps before is {middle:.4g}"
