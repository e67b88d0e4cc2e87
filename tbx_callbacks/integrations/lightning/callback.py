"""Defines `TbxLightningCallback`, the callback for the Lightning Trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tbx_callbacks._engine.rule_actions import Action
from tbx_callbacks._model.forward_hooks import on_forward
from tbx_callbacks.integrations.base import named_optimizers
from tbx_callbacks.integrations.batches import batch_as_mapping, loss_in, samples_in, tokens_in
from tbx_callbacks.integrations.lightning.batch_outputs import BatchOutputs
from tbx_callbacks.integrations.lightning.compat import Callback
from tbx_callbacks.integrations.lightning.info import epoch, loss_scale, training_info
from tbx_callbacks.integrations.lightning.logger import Listener
from tbx_callbacks.integrations.step_counting import StepCountingIntegration
from tbx_callbacks.runs.folders import RunLocation, beside, fresh_folder, holds_run


class TbxLightningCallback(StepCountingIntegration, Callback):  # type: ignore[misc]
    """Logs a metric set to TensorBoard from a Lightning `Trainer`, on rank 0 only.

    Arguments, `writer`, `log` and `close` are those of `Integration`. Without `log_dir` the run is written to a new
    folder in `<default_root_dir>/runs/`. Steps are finished steps of the first optimizer, counted from 1. `every: log`
    means every `log_every_n_steps` of them.

    Values that the module logs with `self.log` are written under their own names, with or without a logger in the
    Trainer. `train/loss` is the loss that `training_step` returns. Gradients are captured before clipping, so norms and
    the first non-finite layer are exact. If the module's only child with parameters is the model, parameters are named
    as under the other trainers.
    """

    _root: str | None = None
    _checkpoint_state: Mapping[str, Any] = {}
    _optimizer_names: Mapping[int, str] = {}
    _max_norm: float | None = None
    _batch_outputs: BatchOutputs | None = None  # set if a metric reads the model's outputs
    _scales_loss = False  # whether to undo the division of the loss by accumulate_grad_batches

    # -- events of the Trainer -------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._participates = not trainer.fast_dev_run
        self._is_writer = trainer.is_global_zero and self._participates
        self._root = trainer.default_root_dir
        if stage != "fit":
            self._add_listener(trainer)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # Not in setup: a logger that exists then would change the folder of ModelCheckpoint.
        self._add_listener(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not self._is_active:
            return
        optimizers = named_optimizers(list(trainer.optimizers))
        self._optimizer_names = {id(optimizer): name for name, optimizer in optimizers.items()}
        info = training_info(trainer, pl_module, optimizers)
        self._max_norm = trainer.gradient_clip_val if info.clipping == "norm" else None
        self._scales_loss = pl_module.automatic_optimization and trainer.accumulate_grad_batches > 1
        self._begin(*self._resume_point(trainer), info=info)
        self._batch_outputs = BatchOutputs(self._engine) if self._wants_outputs else None
        if self._batch_outputs is not None:
            self._hooks.append(on_forward(info.model, self._batch_outputs.on_forward))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._batch_outputs is not None:
            self._batch_outputs.begin(batch)
        self._engine.stopwatch.stop_waiting()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._engine.stopwatch.start_waiting()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        self._engine.stopwatch.cancel_waiting()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._running and (self._stepped or self._engine.has_due_metrics):
            name = self._optimizer_names.get(id(optimizer)) or self._optimizer_names.get(
                id(getattr(optimizer, "optimizer", None))
            )
            self._before_clip(loss_scale(trainer, optimizer), optimizer=name, max_norm=self._max_norm)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._running:
            if self._batch_outputs is not None:
                self._batch_outputs.end(outputs)
            loss = loss_in(outputs)
            if loss is not None and self._scales_loss:
                loss = loss * trainer.accumulate_grad_batches
            fraction = epoch(trainer, batch_idx) if self._log_due else None
            inputs = batch_as_mapping(batch)
            self._end_microbatch(loss=loss, samples=samples_in(inputs), tokens=tokens_in(inputs), epoch=fraction)
            if self._action:
                self._apply_action(trainer)
            self._engine.stopwatch.start_waiting()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._engine.stopwatch.pause()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self._running:
            self._engine.stopwatch.resume()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._running:
            self._end(self._step, succeeded=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._running:
            self._end(self._step, succeeded=False)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._remove_listener(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that Lightning stores in a checkpoint: the run's folder and step."""
        return {"log_dir": self.log_dir and os.path.abspath(self.log_dir), "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state from a checkpoint."""
        self._checkpoint_state = state_dict

    # -- private ---------------------------------------------------------------------------------------------------

    def _resume_point(self, trainer: Any) -> tuple[RunLocation | None, int]:
        """The folder in which training continues (None on ranks that do not write), and the last step."""
        step = self._checkpoint_state.get("step", self._step) if trainer.global_step else 0
        location = self._choose_location(step) if self._is_writer else None
        self._checkpoint_state = {}  # a later fit continues from here
        return location, step

    def _apply_action(self, trainer: Any) -> None:
        """Carries out the action of rules with Lightning's own means, on every rank after the same step."""
        if Action.CHECKPOINT in self._action:
            checkpointing = trainer.checkpoint_callback
            folder = checkpointing and getattr(checkpointing, "dirpath", None)
            folder = folder or os.path.join(trainer.default_root_dir, "checkpoints")
            trainer.save_checkpoint(os.path.join(folder, f"alert-step={self._step}.ckpt"))
        if Action.STOP in self._action:
            trainer.should_stop = True

    def _add_listener(self, trainer: Any) -> None:
        """Receives the values that the module logs, until `_remove_listener`."""
        if not trainer.fast_dev_run and not any(isinstance(logger, Listener) for logger in trainer.loggers):
            trainer.loggers = [*trainer.loggers, Listener(self._on_logs, str(self._root))]

    def _remove_listener(self, trainer: Any) -> None:
        trainer.loggers = [logger for logger in trainer.loggers if not isinstance(logger, Listener)]

    def _on_logs(self, metrics: Mapping[str, float]) -> None:
        """Records values that the module logged after `_step` steps."""
        if self._is_active:  # on all ranks: a metric whose tag the module logs is disabled
            self._record_logs(self._step, {name: float(value) for name, value in metrics.items()})

    def _choose_location(self, step: int) -> RunLocation:
        stored_dir = self._checkpoint_state.get("log_dir")
        if step and stored_dir and holds_run(stored_dir) and self._wanted_dir in (None, stored_dir):
            return RunLocation(stored_dir, resume=True)
        if step and (self.log_dir or self._wanted_dir):
            return RunLocation(str(self.log_dir or self._wanted_dir), resume=True)
        return RunLocation(self.log_dir) if self.log_dir and not self._has_begun else self._location_before_training()

    def _location_before_training(self) -> RunLocation:
        if self._wanted_dir:
            return RunLocation(beside(self._wanted_dir))
        if self._root is None:
            return super()._location_before_training()
        return RunLocation(fresh_folder(os.path.join(self._root, "runs")))
