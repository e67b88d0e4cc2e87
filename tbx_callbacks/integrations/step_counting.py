"""Defines `StepCounter`, which counts the first optimizer's steps for trainers that do not number their steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tbx_callbacks import tags
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.loss_mean import LossMean
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._stats.types import Number
from tbx_callbacks.rules.base import Action


class StepCounter:
    """Learns of a step from the optimizer's hooks and of a batch's end from the integration, and drives the engine.

    It installs its hooks at once, so that they run before those of the engine. Call `begin` when the engine has
    started.

    Args:
        engine: runs the metrics.
        info: describes the training.
        step: number of finished steps.
        copies_weights: whether a metric copies the weights before the optimizer's step.
    """

    def __init__(self, engine: Engine, info: TrainingInfo, step: int, *, copies_weights: bool) -> None:
        self.step = step
        """Number of finished steps."""
        self.stepped = False
        """Whether the optimizer made a step whose batch has not ended."""
        self._engine, self._log_schedule = engine, info.log_schedule
        self._log_due = False  # whether the trainer logs after this step
        self._losses = LossMean()
        self._step_logs: dict[str, Number] = {}
        self._action = Action.NONE
        self.first_name, first = next(iter(info.optimizers.items()))
        self._hooks = [first.register_step_post_hook(self._after_step)]
        if copies_weights:
            self._hooks.append(first.register_step_pre_hook(self._before_step))

    def begin(self) -> None:
        """Begins the next step."""
        self._log_due = self._log_schedule(self.step + 1)
        self._losses.is_shared = self._engine.has_other_ranks
        self._engine.begin_step(self.step + 1)

    def end_batch(self, loss: Tensor | None, samples: int, tokens: Tensor | None, epoch: float | None) -> Action:
        """Ends a micro-batch; if the optimizer stepped, the step is complete. Returns the new requests of rules."""
        loss_copy = self._engine.record_batch(loss=loss, samples=samples, tokens=tokens)
        if loss_copy is None and loss is not None:
            self._losses.clear()  # a mean of only some losses would be wrong
        else:
            self._losses.add(loss_copy, samples)
        if self.stepped:
            if epoch is not None and self._log_due:
                self._step_logs[tags.TRAIN_EPOCH] = epoch
            self.finish_step()
        else:
            self._engine.end_microbatch(is_step=False)
        action, self._action = self._action, Action.NONE
        return action

    def finish_step(self) -> None:
        """Completes the step that the optimizer has made, and begins the next one."""
        self.step, self.stepped = self.step + 1, False
        self._engine.end_microbatch(is_step=False)
        if self._log_due:
            logs, self._step_logs = self._step_logs, {}
            self._engine.record_logs(self.step, logs, shared=self._losses.values())
            self._losses.clear()
        self.begin()
        if self._engine.has_decisions:
            self._action |= self._engine.poll_actions(self.step)

    def take_over(self, earlier: StepCounter) -> None:
        """Continues the step of a counter that counted until now."""
        self.stepped, self._step_logs = earlier.stepped, earlier._step_logs

    def remove_hooks(self) -> None:
        """Removes the hooks; later steps are not counted."""
        while self._hooks:
            self._hooks.pop().remove()

    def _before_step(self, *args: Any) -> None:
        if self.stepped:  # the previous iteration did not report its end
            self.finish_step()

    def _after_step(self, optimizer: torch.optim.Optimizer, *args: Any) -> None:
        if self.stepped:
            self.finish_step()
        self.stepped = True
        if self._log_due:  # read now: the scheduler changes it before the step is finished
            rate = optimizer.param_groups[0]["lr"]
            self._step_logs[tags.TRAIN_LEARNING_RATE] = rate.detach().clone() if isinstance(rate, Tensor) else rate
