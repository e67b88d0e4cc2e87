"""Steps of trainers that do not number them: those of the first optimizer, counted in its own hooks."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks import tags
from tbx_callbacks._config.schedule import Schedule, never
from tbx_callbacks._distributed.rank import world_size
from tbx_callbacks._engine.actions import Action
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._stats.accumulators import LazySum, add_up
from tbx_callbacks._stats.types import Number
from tbx_callbacks.integrations.base import Integration
from tbx_callbacks.metrics.values import Max, Mean, Value
from tbx_callbacks.runs.folders import RunLocation

logger = logging.getLogger(__name__)


class StepCountingIntegration(Integration):
    """An adapter that learns from the optimizer that a step is done, and from the trainer that a pass has ended."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._first = ""
        self._stepped = False
        self._log_due: Schedule = never
        self._logs = False  # whether the trainer logs after this step
        self._losses = LazySum(add_up)
        self._counted = 0
        self._facts: dict[str, Number] = {}
        self._samples = 0
        self._action = self._new_action = Action.NONE

    def _begin(self, location: RunLocation | None, step: int, *, info: TrainingInfo) -> None:
        self._finish_previous(location)
        self._unhook()
        self._log_due, self._facts, self._stepped = info.log_schedule, {}, False
        self._action = self._new_action = Action.NONE
        self._losses, self._counted, self._samples = LazySum(add_up), 0, 0
        self._first, first = next(iter(info.optimizers.items()))
        self._hooks.append(first.register_step_post_hook(self._after_step))  # before the engine's own
        if any("weights_before" in item.metric.needs for item in self.config.items):
            self._hooks.append(first.register_step_pre_hook(self._before_step))
        try:
            super()._begin(location, step, info=info)
        except BaseException:
            self._unhook()  # or the optimizer would go on to call this one
            raise
        self._begin_step(step)

    def _begin_step(self, step: int) -> None:
        self._step, self._logs = step, self._log_due(step + 1)
        self._engine.begin_step(step + 1)

    def _end_microbatch(
        self, *, loss: Tensor | None, samples: int, tokens: Tensor | None, epoch: float | None = None
    ) -> None:
        """A (micro-)batch went through; if the optimizer stepped, the step is complete."""
        kept = self._engine.record_batch(loss=loss, samples=samples, tokens=tokens)
        if kept is None and loss is not None:
            self._losses, self._counted = LazySum(add_up), 0  # no mean of only some of them
        elif kept is not None:
            self._losses.add(kept)
            self._counted += 1
            self._samples += samples
        if self._stepped:
            if epoch is not None:
                self._facts[tags.TRAIN_EPOCH] = epoch
            self._finish_step()
        else:
            self._engine.end_microbatch(is_step=False)
        verdict, self._new_action = self._new_action, Action.NONE
        if verdict is not self._action:  # a stop stays asked for, a checkpoint is asked for once
            self._action = self._action & Action.STOP | verdict

    def _record_outputs(self, outputs: Any, labels: Any) -> None:
        """What the model returned for a micro-batch, and its labels; before the end of its pass."""
        if self._wants_outputs:
            self._engine.record_outputs(outputs, labels)

    def _before_clip(
        self, scale: Tensor | None = None, *, optimizer: str | None = None, max_norm: float | None = None
    ) -> None:
        """All gradients of an optimizer (or of all) are there; see `Engine.before_clip`."""
        if self._stepped and optimizer in (None, self._first):
            self._finish_step()
        self._engine.before_clip(scale, optimizer=optimizer, max_norm=max_norm)

    def _end(self, step: int, *, succeeded: bool) -> None:
        if self._stepped:
            self._finish_step()
            step = self._step
        super()._end(step, succeeded=succeeded)

    def _before_step(self, *args: Any) -> None:
        if self._stepped:  # the pass before did not say that it has ended
            self._finish_step()

    def _after_step(self, optimizer: torch.optim.Optimizer, *args: Any) -> None:
        if self._stepped:
            self._finish_step()
        self._stepped = True
        if self._logs:  # now: the scheduler will have changed it when the step is finished
            rate = optimizer.param_groups[0]["lr"]
            self._facts[tags.TRAIN_LEARNING_RATE] = rate.detach().clone() if isinstance(rate, Tensor) else rate

    def _finish_step(self) -> None:
        self._step, self._stepped = self._step + 1, False
        self._engine.end_microbatch(is_step=False)
        if self._logs:
            facts, self._facts = self._facts, {}
            self._engine.record_logs(self._step, facts, shared=self._loss())
            self._losses, self._counted, self._samples = LazySum(add_up), 0, 0
        self._begin_step(self._step)
        if self._engine.publisher.messages.pending:
            self._new_action |= self._engine.poll_actions(self._step)

    def _loss(self) -> dict[str, Value]:
        """The mean over passes since the last point; over ranks weighted by their samples, and the largest."""
        if not self._counted:
            return {}
        mean, weight = self._losses.total() / self._counted, self._samples or self._counted
        values: dict[str, Value] = {tags.TRAIN_LOSS: Mean(mean * weight, weight)}
        return values if world_size() == 1 else {**values, tags.TRAIN_LOSS_MAX: Max(mean)}
