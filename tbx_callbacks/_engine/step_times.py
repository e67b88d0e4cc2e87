"""Defines `StepTimes`, which splits the time of the training thread into parts, and `PassTimes`, its hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tbx_callbacks._model.backward_pass import at_end_of_backward
from tbx_callbacks._model.outputs import named_parts
from tbx_callbacks.metrics.context import Seconds
from tbx_callbacks.tags import (
    TIME_BACKWARD,
    TIME_CLIP,
    TIME_DATA,
    TIME_FORWARD,
    TIME_MONITORING,
    TIME_OPTIMIZER,
    TIME_OTHER,
)

_AFTER_BACKWARD = ""
"""Between the backward pass and what follows: clipping if that is the optimizer's step, else other time."""


class StepTimes:
    """Splits the time of the training thread into parts: each moment belongs to exactly one.

    `switch` says what the training does from now on. `begin` and `end` mark work in between, such as a callback, after
    which the training goes on with what it did. A part has the name of its tag. No call waits for a device.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._marked: dict[str, float] = {}
        self._part, self._between = TIME_OTHER, list[str]()
        self._owners = 0  # guards that run, inside one another
        self._since = clock()
        self.sees_fetches = False
        """Whether the trainer reports when it fetches a batch; otherwise it fetches one whenever it waits."""

    def cut(self, part: str | None = None) -> None:
        """Counts the time since the last event as that of `part`; by default as what the training is known to do."""
        now = self._clock()
        if part is None:
            part = self._between[-1] if self._between else self._part
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._since
        self._since = now

    def switch(self, part: str) -> None:
        """The training does this from now on."""
        self.cut()
        if self._part == _AFTER_BACKWARD:
            self._move(_AFTER_BACKWARD, TIME_CLIP if part in (TIME_OPTIMIZER, TIME_CLIP) else TIME_OTHER)
        self._part = part

    def begin(self, part: str) -> None:
        """Other work begins, until `end`."""
        self.cut()
        self._between.append(part)

    def end(self, part: str) -> None:
        """The work that `begin` announced is over, and with it all that began inside it."""
        if part in self._between:
            self.cut()
            while self._between.pop() != part:
                pass

    def begin_own(self) -> None:
        """Monitoring begins, until `end_own`; it may begin again inside."""
        if not self._owners:
            self.cut()
        self._owners += 1

    def end_own(self) -> None:
        """Monitoring is over."""
        self._owners -= 1
        if not self._owners:
            self.cut(TIME_MONITORING)

    def mark(self) -> None:
        """The training ran until now; see `exclude`."""
        self.cut()
        self._marked = dict(self._seconds)

    def exclude(self, part: str) -> None:
        """What the training did since the last mark was `part` in truth, except the work between `begin` and `end`."""
        self.cut()
        for name in (_AFTER_BACKWARD, *_OF_TRAINING):
            if name in self._seconds:
                self._move(name, part, keeps=self._marked.get(name, 0.0))
        self._part = TIME_OTHER
        self._marked = dict(self._seconds)

    def begin_forward(self) -> None:
        """The model's forward pass begins."""
        if not self._between and self._part != TIME_FORWARD:
            self.switch(TIME_FORWARD)

    def end_backward(self) -> None:
        """The backward pass is over, if one ran."""
        if self._part == TIME_BACKWARD:
            self.switch(_AFTER_BACKWARD)

    def begin_step(self, closure: Callable[[], Any] | None) -> Callable[[], Any] | None:
        """An optimizer's step begins. Returns a closure to call in place of the optimizer's, where there is one."""
        if closure is None:
            self.switch(TIME_OPTIMIZER)
            return None

        def evaluate() -> Any:  # forward and backward pass
            self.switch(TIME_FORWARD)
            result = closure()
            self.switch(TIME_OPTIMIZER)
            return result

        return evaluate

    def totals(self) -> Seconds:
        """Seconds of each part so far; parts that were never seen are left out."""
        self.cut()
        totals = Seconds(self._seconds)
        after = totals.pop(_AFTER_BACKWARD, 0.0)
        totals[TIME_OTHER] = totals.get(TIME_OTHER, 0.0) + after
        return totals

    def _move(self, part: str, to: str, *, keeps: float = 0.0) -> None:
        moved = self._seconds[part] - keeps
        if moved > 0 and part != to:
            self._seconds[part] = keeps
            self._seconds[to] = self._seconds.get(to, 0.0) + moved


_OF_TRAINING = (TIME_DATA, TIME_FORWARD, TIME_BACKWARD, TIME_CLIP, TIME_OPTIMIZER, TIME_OTHER)


class PassTimes:
    """Tells a `StepTimes` when the model's forward and backward passes begin and end.

    The backward pass begins when the gradient of an output is known. It ends when all gradients exist, also those that
    ranks reduce.

    Args:
        times: receives the events.
    """

    def __init__(self, times: StepTimes) -> None:
        self._times = times
        self._pass = -1  # the backward pass in progress
        self.trains_in_eval_mode = False
        """Whether passes with gradients in evaluation mode belong to the training."""

    def before_forward(self, module: nn.Module, *args: Any) -> None:
        """See `register_forward_pre_hook`."""
        trains = module.training or self.trains_in_eval_mode
        if trains and torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
            self._times.begin_forward()

    def after_forward(self, outputs: Any, inputs: Mapping[Any, Any]) -> None:
        """Watches for the backward pass of a training pass that has ended."""
        for node in {leaf.grad_fn for leaf in _tensors(outputs) if leaf.grad_fn is not None}:
            node.register_prehook(self._on_backward)

    def _on_backward(self, *_: Any) -> None:
        current = torch._C._current_graph_task_id()
        if current != self._pass:
            self._pass = current
            self._times.switch(TIME_BACKWARD)
            at_end_of_backward(self._times.end_backward)


def _tensors(outputs: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(dict(named_parts(outputs)) or outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
