"""Counts the first optimizer's steps in its hooks, for trainers that do not number their steps."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks import tags
from tbx_callbacks._config.schedule import Schedule, never
from tbx_callbacks._distributed.rank import world_size
from tbx_callbacks._engine.rule_actions import Action
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._stats.accumulators import LazySum, add_up
from tbx_callbacks._stats.types import Number
from tbx_callbacks.integrations.base import Integration
from tbx_callbacks.metrics.values import Max, Mean, Value
from tbx_callbacks.runs.folders import RunLocation

logger = logging.getLogger(__name__)


class StepCountingIntegration(Integration):
    """An integration that learns of a step from the optimizer's hooks, and of a batch's end from the trainer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._first_name = ""
        self._stepped = False
        self._log_schedule: Schedule = never
        self._log_due = False  # whether the trainer logs after this step
        self._losses = LazySum(add_up)
        self._num_losses = 0
        self._step_logs: dict[str, Number] = {}
        self._samples = 0
        self._action = self._new_action = Action.NONE

    def _begin(self, location: RunLocation | None, step: int, *, info: TrainingInfo) -> None:
        self._finish_previous(location)
        self._unhook()
        self._log_schedule, self._step_logs, self._stepped = info.log_schedule, {}, False
        self._action = self._new_action = Action.NONE
        self._losses, self._num_losses, self._samples = LazySum(add_up), 0, 0
        self._first_name, first = next(iter(info.optimizers.items()))
        self._hooks.append(first.register_step_post_hook(self._after_step))  # before the engine installs its hooks
        if any("weights_before" in item.metric.needs for item in self.config.items):
            self._hooks.append(first.register_step_pre_hook(self._before_step))
        try:
            super()._begin(location, step, info=info)
        except BaseException:
            self._unhook()  # otherwise the optimizer would keep calling this integration
            raise
        self._begin_step(step)

    def _begin_step(self, step: int) -> None:
        self._step, self._log_due = step, self._log_schedule(step + 1)
        self._engine.begin_step(step + 1)

    def _end_microbatch(
        self, *, loss: Tensor | None, samples: int, tokens: Tensor | None, epoch: float | None = None
    ) -> None:
        """Ends a (micro-)batch; if the optimizer stepped, the step is complete."""
        loss_copy = self._engine.record_batch(loss=loss, samples=samples, tokens=tokens)
        if loss_copy is None and loss is not None:
            self._losses, self._num_losses = LazySum(add_up), 0  # a mean of only some losses would be wrong
        elif loss_copy is not None:
            self._losses.add(loss_copy)
            self._num_losses += 1
            self._samples += samples
        if self._stepped:
            if epoch is not None:
                self._step_logs[tags.TRAIN_EPOCH] = epoch
            self._finish_step()
        else:
            self._engine.end_microbatch(is_step=False)
        action, self._new_action = self._new_action, Action.NONE
        if action is not self._action:  # a stop request persists, a checkpoint is requested once
            self._action = self._action & Action.STOP | action

    def _record_outputs(self, outputs: Any, labels: Any) -> None:
        """Records the model's outputs for a micro-batch and its labels; call it before the end of the batch."""
        if self._wants_outputs:
            self._engine.record_outputs(outputs, labels)

    def _before_clip(
        self, scale: Tensor | None = None, *, optimizer: str | None = None, max_norm: float | None = None
    ) -> None:
        """Captures the gradients of one optimizer (or of all) before clipping; see `Engine.before_clip`."""
        if self._stepped and optimizer in (None, self._first_name):
            self._finish_step()
        self._engine.before_clip(scale, optimizer=optimizer, max_norm=max_norm)

    def _end(self, step: int, *, succeeded: bool) -> None:
        if self._stepped:
            self._finish_step()
            step = self._step
        super()._end(step, succeeded=succeeded)

    def _before_step(self, *args: Any) -> None:
        if self._stepped:  # the previous iteration did not report its end
            self._finish_step()

    def _after_step(self, optimizer: torch.optim.Optimizer, *args: Any) -> None:
        if self._stepped:
            self._finish_step()
        self._stepped = True
        if self._log_due:  # read now: the scheduler changes it before the step is finished
            rate = optimizer.param_groups[0]["lr"]
            self._step_logs[tags.TRAIN_LEARNING_RATE] = rate.detach().clone() if isinstance(rate, Tensor) else rate

    def _finish_step(self) -> None:
        self._step, self._stepped = self._step + 1, False
        self._engine.end_microbatch(is_step=False)
        if self._log_due:
            logs, self._step_logs = self._step_logs, {}
            self._engine.record_logs(self._step, logs, shared=self._loss())
            self._losses, self._num_losses, self._samples = LazySum(add_up), 0, 0
        self._begin_step(self._step)
        if self._engine.has_decisions:
            self._new_action |= self._engine.poll_actions(self._step)

    def _loss(self) -> dict[str, Value]:
        """The mean loss since the last point, weighted by samples over ranks, and the largest loss of any rank."""
        if not self._num_losses:
            return {}
        mean, weight = self._losses.total() / self._num_losses, self._samples or self._num_losses
        values: dict[str, Value] = {tags.TRAIN_LOSS: Mean(mean * weight, weight)}
        return values if world_size() == 1 else {**values, tags.TRAIN_LOSS_MAX: Max(mean)}
