"""Defines `TbxLightningCallback`, the callback for the Lightning Trainer."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from tbx_callbacks import tags
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.amp import scale_of
from tbx_callbacks._model.outputs import loss_in
from tbx_callbacks.integrations.batches import labels_in
from tbx_callbacks.integrations.lightning.batch_outputs import BatchOutputs
from tbx_callbacks.integrations.lightning.compat import Callback
from tbx_callbacks.integrations.lightning.info import (
    batch_size,
    clipping,
    epoch,
    is_step,
    logged_step,
    loss_scale,
    scaler,
    training_info,
)
from tbx_callbacks.integrations.lightning.logger import Listener, is_tensorboard
from tbx_callbacks.integrations.preflight import Preflight, preflight
from tbx_callbacks.integrations.session_holder import SessionHolder
from tbx_callbacks.integrations.timed_profiler import TimedProfiler
from tbx_callbacks.metrics.hparam_values import HParamValue, plain_hparams
from tbx_callbacks.rules.base import Action
from tbx_callbacks.runs.folders import RunLocation, absolute, holds_run
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter

logger = logging.getLogger(__name__)


class TbxLightningCallback(SessionHolder, Callback):  # type: ignore[misc]
    """Logs a metric set to TensorBoard from a Lightning `Trainer`, on rank 0 only.

    Arguments, `writer`, `log` and `close` are those of `Session`. Without `log_dir` the run is written to a new
    folder in `<default_root_dir>/runs/`. Steps are those of Lightning's own loggers and monitors, counted from 1: each
    complete accumulation, or each batch if the module optimizes manually. `every: log` means every `log_every_n_steps`
    of them.

    Values that the module logs with `self.log` are written under their own names, with or without a logger in the
    Trainer. With `logger=False`, `self.logger.experiment` is the run's `writer`. `train/loss` is the loss that
    `training_step` returns. Gradients are captured before clipping, so norms and the first non-finite layer are exact.
    If the module's only child with parameters is the model, parameters are named as under the other trainers.
    """

    _not_copied = frozenset({"_fitting", "_batch_outputs", "_evaluation", "_datasets", "_profiler", "_size"})
    _evaluation: str | None = None  # name of the evaluation in progress, and of its data sets if there are several
    _datasets: Sequence[str] = ()
    _logged_hparams: Mapping[str, HParamValue] = {}
    _warned_twice = False  # whether the user knows about a second TensorBoard logger
    _checkpoint_state: Mapping[str, Any] = {}
    _max_norm: float | None = None
    _fitting: Any = None  # the Trainer, while it fits
    _batch_outputs: BatchOutputs | None = None  # set if a metric reads the model's outputs
    _profiler: TimedProfiler | None = None  # tells when the Trainer calls callbacks, fetches batches and saves
    _batch_size: int | None = None
    _has_scaler = False
    _size: list[tuple[int | None, Tensor | None]]  # samples and tokens of the batch in progress; the item is replaced
    _scales_loss = False  # whether to undo the division of the loss by accumulate_grad_batches

    # -- events of the Trainer -------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._session.is_writer = trainer.is_global_zero and not trainer.fast_dev_run
        self._session.runs_dir = os.path.join(trainer.default_root_dir, "runs")
        if stage != "fit":
            self._add_listener(trainer)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # Not in setup: a logger that exists then would change the folder of ModelCheckpoint.
        self._add_listener(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.fast_dev_run or not self._session.may_start:
            return
        if self._session.is_writer:
            others = [each for each in trainer.loggers if is_tensorboard(each)]
            self._session.is_taken = frozenset(absolute(each.log_dir) for each in others).__contains__
            if others and not self._warned_twice:
                self._warned_twice = True
                logger.warning(
                    "values that the module logs are written twice: the Trainer has a TensorBoardLogger too; pass"
                    " logger=False to the Trainer"
                )
        self._max_norm = trainer.gradient_clip_val if clipping(trainer, pl_module) == "norm" else None
        self._scales_loss = pl_module.automatic_optimization and trainer.accumulate_grad_batches > 1
        state, self._checkpoint_state = self._checkpoint_state, {}  # a later fit continues from here
        step = state.get("step", self.step) if trainer.global_step else 0
        location = self._stored_location(state) if step else None

        def info() -> TrainingInfo:
            return training_info(trainer, pl_module, self._logged_hparams, self.config.every)

        if not self._starts(info, location, step=step, numbered=False):
            return
        if self._session.stopwatch.times is not None:
            self._profiler = TimedProfiler(trainer.profiler, self._session.stopwatch.times, self.state_key)
        self._batch_size, self._has_scaler = batch_size(trainer), scaler(trainer) is not None
        self._size = []
        self._batch_outputs = BatchOutputs(self._session) if self._session.needs_outputs else None
        if self._batch_outputs is not None:
            self._session.on_forward(self._batch_outputs.on_forward)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        session = self._session
        if self._batch_outputs is not None:
            self._batch_outputs.begin(batch)
        if session.running:
            session.stopwatch.stop_waiting()
            session.stopwatch.resume()
            self._size[:] = [session.measure_batch(batch, self._batch_size)]  # now: the module may change the batch
            if session.needs_labels:
                with session.guard_outputs():
                    session.check_labels(labels_in(batch))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self._session.running:
            self._session.stopwatch.resume()
            self._session.stopwatch.start_waiting()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        if self._session.running:
            self._session.stopwatch.exclude(
                tags.TIME_SAVING
            )  # until the training goes on; no event tells when the file is written

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        if self._session.running:
            if self._session.stopwatch.times is not None:
                self._session.stopwatch.times.switch(tags.TIME_BACKWARD)
            self._session.check_loss(loss)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        # A module that optimizes manually may clip before the next event. The last backward pass of the step counts.
        if self._session.running and not pl_module.automatic_optimization:
            self._session.before_clip(scale_of(scaler(trainer)))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        session = self._session
        if session.running and session.reads_gradients and pl_module.automatic_optimization:
            scale = loss_scale(trainer, optimizer) if self._has_scaler else None
            session.before_clip(scale, optimizer=optimizer, max_norm=self._max_norm)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._session.running:
            return
        if self._batch_outputs is not None:
            self._batch_outputs.end(outputs)
        loss = loss_in(outputs)
        if loss is not None and self._scales_loss:
            loss = loss * trainer.accumulate_grad_batches
        session, (samples, tokens) = self._session, self._size.pop() if self._size else (None, None)
        action = session.end_batch(
            loss=loss,
            samples=samples,
            tokens=tokens,
            epoch=epoch(trainer, batch_idx) if session.wants_epoch else None,
            is_step=not session.stepped and is_step(trainer, pl_module, batch_idx),
        )
        if action:
            self._apply_action(action, trainer)
        session.stopwatch.start_waiting()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin_evaluation(None if trainer.sanity_checking else tags.EVAL, trainer.val_dataloaders)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._evaluate_batch(dataloader_idx)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._end_datasets(tags.EVAL)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._end_evaluation()
        if self._session.running:
            self._session.stopwatch.exclude()  # since the end of the batch; the next one resumes

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin_evaluation(tags.TEST, trainer.test_dataloaders)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._evaluate_batch(dataloader_idx)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._end_datasets(tags.TEST)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self._end_evaluation()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._session.end(succeeded=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._session.end(succeeded=False, error=exception)
        self._remove_listener(trainer)  # there is no teardown then

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._remove_listener(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that Lightning stores in a checkpoint: the run's folder and step."""
        return {"log_dir": self.log_dir and os.path.abspath(self.log_dir), "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state from a checkpoint."""
        self._checkpoint_state = state_dict

    def __setattr__(self, name: str, value: object) -> None:
        if name not in ("log", "log_dict"):  # the Trainer sets the module's functions on every callback
            super().__setattr__(name, value)

    def preflight(self, module: Any, batches: Any, *, evaluation: Any = None, tokenizer: Any = None) -> Preflight:
        """Checks the training on its first batches, before `trainer.fit()`, and logs what it finds; see `preflight`.

        Args:
            module: the LightningModule; the loss is that of its `training_step`.
            batches: the data loader of the training, or one of its batches.
            evaluation: a data loader of the evaluation.
            tokenizer: the tokenizer, to count unknown tokens.
        """

        remedy = "call tbx_callbacks.preflight(module, batches, loss=...) with a function that computes the loss"
        if not module.automatic_optimization:
            raise TypeError(f"the module must not optimize by itself, got {type(module).__name__}; {remedy}")
        takes_index = len(inspect.signature(module.training_step).parameters) > 1

        def loss(model: Any, batch: Any) -> Any:
            try:
                result = model.training_step(batch, 0) if takes_index else model.training_step(batch)
            except RuntimeError as error:
                if "not attached to a `Trainer`" not in str(error):
                    raise
                raise TypeError(f"training_step must do without a Trainer, got {error}; {remedy}") from error
            return result["loss"] if isinstance(result, Mapping) else result

        return self._session.report(preflight(module, batches, loss=loss, evaluation=evaluation, tokenizer=tokenizer))

    # -- private ---------------------------------------------------------------------------------------------------

    def _begin_evaluation(self, name: str | None, dataloaders: Any) -> None:
        """Begins an evaluation; each of several data loaders is a set. Without a name it is not logged."""
        self._datasets = []
        if name is None:
            pass  # the sanity check before the training
        elif isinstance(dataloaders, Mapping):
            self._datasets = [f"{name}/{tags.clean(str(key))}" for key in dataloaders]
        elif isinstance(dataloaders, (list, tuple)) and len(dataloaders) > 1:
            self._datasets = [f"{name}/dataloader_idx_{index}" for index in range(len(dataloaders))]
        self._evaluation = self._datasets[0] if self._datasets else name
        self._session.begin_evaluation()

    def _evaluate_batch(self, dataloader_idx: int) -> None:
        if dataloader_idx < len(self._datasets) and self._evaluation != self._datasets[dataloader_idx]:
            self._session.end_evaluation(self._evaluation)
            self._session.begin_evaluation()
            self._evaluation = self._datasets[dataloader_idx]

    def _end_evaluation(self) -> None:
        self._session.end_evaluation(self._evaluation)
        self._evaluation = None
        if not self._session.running and self._session.log_dir is not None:
            self._session.record_logs({})  # no step follows that would write its values

    def _end_datasets(self, name: str) -> None:
        """Ends the last of several data sets. What the module logs now belongs to the evaluation as a whole."""
        if self._datasets:
            self._session.end_evaluation(self._evaluation)
            self._session.begin_evaluation()
            self._evaluation = name

    def _stored_location(self, state: Mapping[str, Any]) -> RunLocation | None:
        """The folder of the checkpoint, if it still holds the run and the user has not requested another."""
        stored = state.get("log_dir")
        if not stored or not holds_run(stored) or self._session.requested_dir not in (None, stored):
            return None
        return RunLocation(stored, resume=True)

    def _apply_action(self, action: Action, trainer: Any) -> None:
        """Carries out the action of rules with Lightning's own means, on every rank after the same step."""
        if Action.CHECKPOINT in action:
            checkpointing = trainer.checkpoint_callback
            folder = checkpointing and getattr(checkpointing, "dirpath", None)
            folder = folder or os.path.join(trainer.default_root_dir, "checkpoints")
            trainer.save_checkpoint(os.path.join(folder, f"alert-step={self.step}.ckpt"))
        if Action.STOP in action:
            trainer.should_stop = True

    def _add_listener(self, trainer: Any) -> None:
        """Receives the values that the module logs, until `_remove_listener`."""
        if trainer.fast_dev_run or any(isinstance(logger, Listener) for logger in trainer.loggers):
            return
        self._fitting = trainer if trainer.state.fn == "fit" else None
        listener = Listener(self._on_logs, self._on_hparams, self._get_writer, trainer.default_root_dir)
        trainer.loggers = [*trainer.loggers, listener]

    def _remove_listener(self, trainer: Any) -> None:
        self._fitting = None
        if self._profiler is not None:
            self._profiler.remove()
            self._profiler = None
        trainer.loggers = [logger for logger in trainer.loggers if not isinstance(logger, Listener)]

    def _get_writer(self) -> SummaryWriter | NullSummaryWriter:
        return self.writer

    def _on_hparams(self, params: Any) -> None:
        """Keeps hyper-parameters that are logged before the training begins; later ones are written as text."""
        with suppress(TypeError):  # not by name
            plain = plain_hparams(params)
            self._logged_hparams = {**self._logged_hparams, **plain}
            if self._session.running:
                self.writer.add_text(
                    "hparams", "\n".join(f"{name}: {value}" for name, value in plain.items()), self.step
                )

    def _on_logs(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Records values that the module or another callback logged, at the step that they belong to."""
        logs = {name: float(value) for name, value in metrics.items()}
        step = None if self._fitting is None else logged_step(self._fitting, step, self.step)
        self._session.record_logs(logs, step=step)
