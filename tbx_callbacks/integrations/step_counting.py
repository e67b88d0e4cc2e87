"""Defines `StepCounter`, which counts optimizer steps for trainers that do not number their steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from tbx_callbacks import tags
from tbx_callbacks._config.schedule import first_after
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.loss_mean import LossMean
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.optimizers import ids_of
from tbx_callbacks._stats.types import Number
from tbx_callbacks._wiring.check import Check
from tbx_callbacks.rules.base import Action

logger = logging.getLogger(__name__)

_MAX_IDLE = 100  # micro-batches without a step, at least, before a warning


class StepCounter:
    """Counts a step for each micro-batch in which an optimizer has stepped, and drives the engine.

    Call `begin` when the engine has started.

    Args:
        engine: runs the metrics.
        info: describes the training.
        step: number of finished steps.
    """

    def __init__(self, engine: Engine, info: TrainingInfo, step: int) -> None:
        self.step = step
        """Number of finished steps."""
        self._engine, self._log_schedule = engine, info.log_schedule
        self.log_due = False
        """Whether the trainer logs after this step."""
        self.has_logged = False
        """Whether the trainer has logged after a step."""
        self._next_log: float = 0  # the trainer logs at no step before
        self._losses = LossMean()
        self._evaluations: dict[str, Number | str] = {}  # logged before the end of their step
        self._action = Action.NONE
        self._idle, self._longest, self._warned = 0, 0, False  # micro-batches since the last step
        self._continues = False
        self._num_batches = 0
        trained = set().union(*map(ids_of, info.optimizers.values()))
        holds_shards = (
            info.sharding is not None and info.sharding.frees_gradients
        )  # the optimizer has tensors of its own
        if not holds_shards and trained.isdisjoint(map(id, info.model.parameters())):
            logger.warning(
                "numbers of the optimizer do not belong to the model: it trains none of its parameters; pass the model"
                " and the optimizer that trains it"
            )

    @property
    def stepped(self) -> bool:
        """Whether an optimizer made a step whose batch has not ended."""
        recorder = self._engine.recorder
        return recorder is not None and recorder.stepped

    def begin(self) -> None:
        """Begins the next step."""
        step, engine = self.step + 1, self._engine
        if step >= self._next_log:
            self.log_due, self._next_log = self._log_schedule(step), first_after(self._log_schedule, step)
        else:
            self.log_due = False
        self._losses.is_shared = engine.publisher.reducer is not None
        engine.begin_step(step, captures_rates=self.log_due)

    def end_batch(
        self,
        loss: Tensor | None,
        samples: int | None,
        tokens: Tensor | None,
        epoch: float | None,
        *,
        is_step: bool = False,
    ) -> Action:
        """Ends a micro-batch; if an optimizer stepped, the step is complete. Returns the new requests of rules.

        With `is_step` it is complete in any case.
        """
        known = self._engine.record_batch(loss=loss, samples=samples, tokens=tokens)
        if known is None and loss is not None:
            self._losses.clear()  # a mean of only some losses would be wrong
        else:
            self._losses.add(known, samples or 0)
        self._idle += 1
        self._num_batches += 1
        recorder = self._engine.recorder
        if recorder is not None and recorder.stepped:
            if self._idle > self._longest:
                self._longest = self._idle
            self._idle = 0
            self.finish_step(epoch)
        elif is_step or self._continues:
            self._engine.end_microbatch(is_step=True, sees_steps=True)
            self.finish_step(epoch)
        else:
            self._engine.end_microbatch(is_step=False)
            if self._idle >= _MAX_IDLE and self._idle > 10 * self._longest:
                self.warn_if_idle()
        action, self._action = self._action, Action.NONE
        return action

    def finish_step(self, epoch: float | None = None) -> None:
        """Completes the step, and begins the next one."""
        engine, recorder = self._engine, self._engine.recorder
        self.step, self._continues = self.step + 1, False
        if recorder is not None and recorder.stepped and (recorder.due or recorder.watches_loss_scale):
            engine.end_microbatch(is_step=False)
        if self.log_due:
            self.has_logged = True
            logs: dict[str, Number] = {}
            rate = engine.first_rate
            if rate is not None:
                logs[tags.TRAIN_LEARNING_RATE] = rate
            if epoch is not None:
                logs[tags.TRAIN_EPOCH] = epoch
            engine.record_logs(self.step, logs, shared=self._losses.values())
            self._losses.clear()
        if self._evaluations:
            logs_of_rank, self._evaluations = self._evaluations, {}
            engine.record_logs(self.step, logs_of_rank, on_all_ranks=False)
        self.begin()
        if engine.publisher.decisions.pending:
            self._action |= engine.poll_actions(self.step)

    def add_evaluation(self, logs: Mapping[str, Number | str]) -> None:
        """Keeps values of this rank until the step that an optimizer has made is complete."""
        self._evaluations.update(logs)

    def warn_if_idle(self) -> None:
        """Warns once if micro-batches have come without a step, or steps without the end of a micro-batch."""
        calls = self._engine.optimizer_calls
        if self._warned:
            return
        if calls > 1 and not self._num_batches:
            self._warned = True
            logger.warning(
                "only one step is written: optimizers stepped %d times, but no batch was reported; call end_step after"
                " each batch",
                calls,
            )
        elif self._idle and (not self._longest or self._idle >= _MAX_IDLE or self._engine.unknown_steps):
            self._warned = True
            logger.warning(
                "no step is written: no optimizer of this model has stepped in %d micro-batches; call optimizer.step(),"
                " and pass the optimizer that has this model's parameters",
                self._idle,
            )

    def check_steps(self) -> None:
        """Adds the check that an optimizer has stepped, at the end of the training."""
        wiring = self._engine.counters.wiring
        if wiring is not None and self._num_batches:
            if not self._engine.has_stepped and wiring.have_weights_changed():
                return  # by a step of the user's own
            missing = 0 if self._engine.has_stepped else self._num_batches
            unknown = self._engine.unknown_steps
            others = f"optimizers that train other parameters stepped {unknown} times" if missing and unknown else ""
            wiring.add("no_optimizer_step", Check(missing, others))

    def take_over(self) -> None:
        """Continues a step in which an optimizer has stepped before this object began to count."""
        self._continues = True
