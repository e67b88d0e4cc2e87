"""Defines `TbxTrainerCallback`, the callback for the Hugging Face Trainer."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from transformers import TrainerCallback

from tbx_callbacks._model.forward_hooks import on_forward
from tbx_callbacks.integrations.batches import loss_in, samples_in, tokens_in
from tbx_callbacks.integrations.huggingface.attach import attach, is_attached
from tbx_callbacks.integrations.huggingface.info import (
    apply_action,
    clip_facts,
    is_compiled,
    log_tags,
    training_info,
)
from tbx_callbacks.integrations.huggingface.run_folder import HuggingFaceIntegration

logger = logging.getLogger(__name__)


class TbxTrainerCallback(HuggingFaceIntegration, TrainerCallback):  # type: ignore[misc]
    """Logs a metric set to TensorBoard from a Hugging Face `Trainer`, on rank 0 only.

    Arguments, `writer`, `log` and `close` are those of `Integration`. Without `log_dir` the run is written to a new
    folder in `<output_dir>/runs/`, as by the Trainer's own TensorBoard callback.
    """

    _trainer: Any = None
    _warned_no_loss = False

    def attach(self, trainer: Any) -> TbxTrainerCallback:
        """Gives the callback access to gradients before clipping: exact norms by layer, and the first non-finite layer.

        It also provides the training loss where that is not the model's own (label smoothing, `compute_loss`). Adds the
        callback to the trainer if necessary, and returns the callback.
        """
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
            self.on_init_end(trainer.args, trainer.state, trainer.control)
        self._trainer = trainer
        attach(trainer, self._engine)
        return self

    # -- events of the Trainer -------------------------------------------------------------------------------------

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._use(args)
        self._is_writer = state.is_world_process_zero

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._adopt(args)
        self._is_writer = state.is_world_process_zero
        if not self._is_active:
            return
        self._unhook()
        if self._trainer is not None:
            attach(self._trainer, self._engine)
        location = self._choose_location(args, state) if self._is_writer else None
        model = kwargs["model"]
        attached, dataloader = is_attached(self._trainer, self._engine), kwargs.get("train_dataloader")
        info = training_info(args, state, model, kwargs["optimizer"], dataloader, attached=attached)
        self._still_training = info.still_training  # for _on_forward
        self._begin(location, state.global_step, info=info)
        if "batches" in self._engine.needs or self._wants_outputs:
            self._hook_forward(model, args)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._running:
            self._engine.stopwatch.stop_waiting()
            self._step = state.global_step
            self._engine.begin_step(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._running:
            return
        self._step = state.global_step
        if action := self._engine.poll_actions(self._step):
            apply_action(action, control)
        if control.should_evaluate or control.should_save:
            self._engine.stopwatch.pause()
        self._engine.end_microbatch(is_step=True)
        # When the trainer is about to log, its values are written with the step. With logging by epoch that is only
        # known at the epoch's end; the step is then published when the next one begins at the latest.
        if not control.should_log and args.logging_strategy != "epoch":
            self._engine.flush_step()
        self._engine.stopwatch.start_waiting()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._running and (control.should_evaluate or control.should_save):
            self._engine.stopwatch.pause()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self._is_active and logs:
            self._adopt(args)  # a callback added after the Trainer was created has no arguments yet
            self._record_logs(state.global_step, log_tags(logs), clip_facts(args, logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._running:
            self._end(state.global_step, succeeded=True)

    # -- private -----------------------------------------------------------------------------------------------------

    def _hook_forward(self, model: nn.Module, args: Any) -> None:
        """Hooks the model's forward pass, unless the attached trainer provides all that the metrics need."""
        if self._wants_outputs or not is_attached(self._trainer, self._engine):
            self._hooks.append(on_forward(model, self._on_forward, compiled=is_compiled(model, args)))

    def _on_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        if not self._still_training():  # ended by an exception, which the Trainer does not report
            self._unhook()
            self._engine.suspend()
            return
        if not module.training:
            return
        if self._wants_outputs:
            self._engine.record_outputs(outputs, kwargs.get("labels"))
        if is_attached(self._trainer, self._engine) or "batches" not in self._engine.needs:
            return
        loss = loss_in(outputs)
        if loss is None and not self._warned_no_loss:
            self._warned_no_loss = True
            logger.warning("NaN losses are not counted: the model returns no loss; call callback.attach(trainer)")
        self._engine.record_batch(loss=loss, samples=samples_in(kwargs), tokens=tokens_in(kwargs))
