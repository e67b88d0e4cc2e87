"""Defines `TbxTrainerCallback`, the callback for the Hugging Face Trainer."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from tbx_callbacks import tags
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.outputs import loss_in
from tbx_callbacks.integrations.huggingface.abandoned_training import handler_in_stack, trainer_in_stack
from tbx_callbacks.integrations.huggingface.attach import attach, is_attached
from tbx_callbacks.integrations.huggingface.batch_size import batch_size
from tbx_callbacks.integrations.huggingface.forward_passes import ForwardPasses
from tbx_callbacks.integrations.huggingface.info import (
    apply_action,
    clip_factor_in,
    evaluation_in,
    foreign_losses,
    log_tags,
    training_info,
)
from tbx_callbacks.integrations.huggingface.item_weights import ItemWeights
from tbx_callbacks.integrations.huggingface.loss_scale import REMEDY, LossComparison, warning
from tbx_callbacks.integrations.huggingface.run_folder import (
    checkpoint_state,
    choose,
    runs_dir,
    taken_folders,
    tensorboard_callbacks,
)
from tbx_callbacks.integrations.module_lookup import module_in
from tbx_callbacks.integrations.preflight import Preflight, preflight
from tbx_callbacks.integrations.session_holder import SessionHolder
from tbx_callbacks.runs.folders import RunLocation

logger = logging.getLogger(__name__)


# Callbacks in use, to find the one that a restored callback replaces: see _use.
_in_use: weakref.WeakSet[TbxTrainerCallback] = weakref.WeakSet()


class TbxTrainerCallback(SessionHolder, TrainerCallback, ExportableState):  # type: ignore[misc]
    """Logs a metric set to TensorBoard from a Hugging Face `Trainer`, on rank 0 only.

    Arguments, `writer`, `log` and `close` are those of `Session`. Without `log_dir` the run is written to a new
    folder in `<output_dir>/runs/`, as by the Trainer's own TensorBoard callback.
    """

    _not_copied = frozenset({"_args", "_trainer", "_passes", "_comparison", "_weights", "_items", "_in_step", "_state"})
    _args: Any = None
    _trainer: Any = None
    _passes: ForwardPasses | None = None  # counts micro-batches if the callback is not attached
    _comparison: LossComparison | None = None  # likewise, until the first log
    _weights: ItemWeights | None = None  # likewise
    _items: tuple[Any, Any] | None = None  # the labels of a micro-batch, and the number of items of its step
    _state: weakref.ref[Any] | None = None  # of the Trainer that trained last
    _in_step = False
    _warned_no_loss = _warned_twice = _warned_other = _warned_elsewhere = False
    stored: dict[str, str] = {}  # noqa: RUF012 - state from a checkpoint; the Trainer sets it on the instance

    def attach(self, trainer: Any) -> TbxTrainerCallback:
        """Gives the callback access to gradients before clipping: exact norms by layer, and the first non-finite layer.

        It also provides the training loss where that is not the model's own (label smoothing, `compute_loss`). Adds the
        callback to the trainer if necessary, and returns the callback.

        Raises:
            TypeError: it is not a Trainer.
        """
        if not all(hasattr(trainer, name) for name in ("callback_handler", "training_step", "accelerator")):
            kind = type(trainer).__name__
            raise TypeError(
                f"trainer must be a transformers Trainer, got {kind}; create the Trainer, then attach to it"
            )
        # A restored callback may have taken this one's place; both share the session.
        if not any(getattr(known, "_session", None) is self._session for known in trainer.callback_handler.callbacks):
            trainer.add_callback(self)
            self.on_init_end(trainer.args, trainer.state, trainer.control)
        self._trainer = trainer
        self._session.watch_model(trainer.model)
        attach(trainer, self._session)
        return self

    def preflight(self, batches: Any = None, *, evaluation: Any = None) -> Preflight:
        """Checks the training on its first batches, before `trainer.train()`, and logs what it finds; see `preflight`.

        Args:
            batches: a batch, or a data loader. Default: the trainer's training data.
            evaluation: a data loader of the evaluation. Default: the trainer's evaluation data, if there is one set.

        Raises:
            RuntimeError: the callback is not attached.
        """
        trainer = self._trainer
        if trainer is None:
            raise RuntimeError("preflight must know the trainer; call callback.attach(trainer) first")
        if evaluation is None and batches is None and trainer.eval_dataset is not None:
            evaluation = None if isinstance(trainer.eval_dataset, dict) else trainer.get_eval_dataloader()
        result = preflight(
            trainer.model,
            trainer.get_train_dataloader() if batches is None else batches,
            optimizers=trainer.optimizer,
            loss=lambda model, batch: trainer.compute_loss(model, trainer._prepare_inputs(batch), return_outputs=True),
            evaluation=evaluation,
            tokenizer=getattr(trainer, "processing_class", None),
        )
        return self._session.report(result)

    def state(self) -> dict[str, Any]:
        """Returns the state that the Trainer stores in a checkpoint: the run's folder."""
        stored = checkpoint_state(self._args, self.log_dir, self.config.digest) if self._args is not None else {}
        return {"args": {}, "attributes": {"stored": stored}}

    # -- events of the Trainer -------------------------------------------------------------------------------------

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._use(args)
        self._remove_repeats(handler_in_stack(), state)
        self._session.is_writer = state.is_world_process_zero
        self._session.watch_model(kwargs.get("model"))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._use(args)
        session = self._session
        session.is_writer = state.is_world_process_zero
        if not session.may_start:
            return
        handler = handler_in_stack()
        self._remove_repeats(handler, state)
        if self._trainer is not None and self._trainer.args is args:
            attach(self._trainer, session)
        attached, dataloader = self._is_attached, kwargs.get("train_dataloader")
        location = None
        if session.is_writer:
            callbacks = () if handler is None else handler.callbacks
            self._warn_of_writers(args, callbacks)
            location = self._choose_location(args, state, callbacks)

        def info() -> TrainingInfo:
            model = module_in(kwargs["model"], kwargs["optimizer"])
            tokenizer = kwargs.get("processing_class")
            return training_info(args, state, model, kwargs["optimizer"], dataloader, tokenizer, attached=attached)

        self._state = weakref.ref(state)
        if not self._starts(info, location, step=state.global_step, numbered=True):
            return
        self._in_step, self._passes, self._comparison = False, None, None
        self._weights = self._items = None
        if not attached:
            self._passes = ForwardPasses(batch_size(args, state, dataloader)) if session.needs_batches else None
            comparison = LossComparison(int(args.gradient_accumulation_steps), max(1, int(args.world_size)))
            self._comparison = comparison if comparison.is_open else None
            self._weights = ItemWeights(args, foreign_losses(trainer_in_stack()))
        if session.needs_outputs or self._passes is not None or self._comparison is not None:
            session.on_forward(self._on_forward)
        if session.stopwatch.times is not None:
            session.stopwatch.times.sees_fetches = attached
        session.stopwatch.mark()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session.running:
            self._in_step = True
            if self._passes is not None:
                self._passes.clear()
            self._session.begin_step(state.global_step + 1)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session.running:
            if self._passes is not None:
                self._end_microbatch(self._passes)
            self._session.stopwatch.resume()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._session.begin_evaluation()  # until its metrics are logged: compute_metrics may log too
        if self._session.running:
            self._session.stopwatch.exclude()  # the evaluation began after the last event of the training

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session.running:
            self._session.stopwatch.exclude()
            if self._in_step:  # else the next step resumes: a checkpoint may follow
                self._session.stopwatch.resume()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: dict[str, Any], **kwargs: Any) -> None:
        self._session.end_evaluation(evaluation_in(metrics) or tags.TEST)
        self.on_evaluate(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session.running:
            self._session.stopwatch.exclude(tags.TIME_SAVING)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._session.running:
            return
        if self._passes is not None:
            self._end_microbatch(self._passes)
        self._in_step = False
        # When the trainer is about to log, its values are written with the step. With logging by epoch that is only
        # known at the epoch's end; the step is then published when the next one begins at the latest.
        logs_follow = control.should_log or args.logging_strategy == "epoch"
        action = self._session.end_step(state.global_step, logs_follow=logs_follow)
        if action:
            apply_action(action, control)
        if control.should_evaluate or control.should_save:
            self._session.stopwatch.pause()
        else:
            self._session.stopwatch.resume()
        self._session.stopwatch.start_waiting()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._session.running:
            return
        self._session.stopwatch.mark()
        if control.should_evaluate or control.should_save:
            self._session.stopwatch.pause()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs:
            if self._belongs_to_other_run(state):
                return
            if self._args is None:
                self._use(args)  # a callback added after the Trainer was created has no arguments yet
            if (evaluation := evaluation_in(logs)) is not None:
                self._session.end_evaluation(evaluation)
            self._session.record_logs(
                log_tags(logs),
                step=state.global_step,
                clip_factor=clip_factor_in(logs, args),
                is_point="loss" in logs,
            )
            if "loss" in logs and self._session.running:
                self._compare_loss(logs["loss"])
                self._session.stopwatch.mark()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._session.end(succeeded=True)

    # -- private -----------------------------------------------------------------------------------------------------

    def _use(self, args: Any) -> None:
        """Registers the callback with a Trainer's arguments, and shares the session of the one that it replaces.

        With `restore_callback_states_from_checkpoint` the Trainer creates a new callback in place of the user's. Both
        then share one session, so the user's own reference, `attach` and `writer` still work.
        """
        if self._args is None:
            digest = self.stored.get("digest")
            replaced = [other for other in _in_use if other._args is args and other.config.matches(digest)]
            if replaced:
                self._session, self._trainer = replaced[0]._session, replaced[0]._trainer
        self._args = args
        self._session.runs_dir = runs_dir(args)
        _in_use.add(self)

    def _belongs_to_other_run(self, state: Any) -> bool:
        """Whether a Trainer logs that is not the one that trained last: its run is another one."""
        last = None if self._state is None else self._state()
        if last is None or last is state:
            return False
        if not self._warned_other:
            self._warned_other = True
            logger.warning(
                "values of another Trainer are left out: this callback now writes the run of the last one; give each"
                " Trainer its own callback"
            )
        return True

    def _choose_location(self, args: Any, state: Any, callbacks: Sequence[Any]) -> RunLocation | None:
        others = [other._session for other in _in_use if other._session is not self._session]
        used = {session.log_dir for session in others if session.running}
        beside = {other.log_dir for other in callbacks if isinstance(other, TbxTrainerCallback) and other is not self}
        self._session.is_taken = taken_folders(args, state, callbacks, used & beside)
        return choose(args, state, self._session, callback_name=type(self).__name__, used=used)

    def _remove_repeats(self, handler: Any, state: Any) -> None:
        """Removes the callback from a handler where it comes again: each event would count twice."""
        callbacks = [] if handler is None else handler.callbacks
        repeats = [place for place, callback in enumerate(callbacks) if callback is self][1:]
        for place in reversed(repeats):
            del callbacks[place]  # in place: the handler iterates over the list
        if repeats and state.is_world_process_zero:
            logger.warning("the callback was passed twice; one is used")

    def _warn_of_writers(self, args: Any, callbacks: Sequence[Any]) -> None:
        """Warns once about another callback that writes the same numbers, and once if another Trainer has this one."""
        if tensorboard_callbacks(callbacks) and not self._warned_twice:
            self._warned_twice = True
            if "tensorboard" in (args.report_to or ()):
                logger.warning("numbers are written twice: report_to has tensorboard too; remove it from report_to")
            else:
                logger.warning(
                    "numbers are written twice: the Trainer has a TensorBoardCallback too; remove it from callbacks"
                )
        if self._trainer is not None and self._trainer.args is not args and not self._warned_elsewhere:
            self._warned_elsewhere = True
            logger.warning(
                "gradients before clipping are left out: the callback is attached to another Trainer; call"
                " callback.attach(trainer) with this one"
            )

    @property
    def _is_attached(self) -> bool:
        """Whether the session receives the micro-batches of the Trainer that trains."""
        return getattr(self._trainer, "args", None) is self._args and is_attached(self._trainer, self._session)

    def _on_forward(self, outputs: Any, inputs: Mapping[Any, Any]) -> None:
        session = self._session
        if not self._is_attached:
            session.expect_rows(inputs)
        session.record_outputs(outputs, inputs.get("labels"))
        with session.guard_outputs():
            if self._comparison is not None and self._comparison.is_open:
                self._comparison.add(loss_in(outputs, keeps_graph=True), inputs.get("num_items_in_batch"))
            if self._passes is not None:
                self._passes.add(outputs, inputs)
                session.measure_padding(inputs)
            if self._weights is not None and session.weighs_batches:
                self._items = inputs.get("labels"), inputs.get("num_items_in_batch")
                if self._weights.needs_loss:
                    self._weights.read(loss_in(outputs, keeps_graph=True), self._items[1])

    def _end_microbatch(self, passes: ForwardPasses) -> None:
        """Counts the micro-batch whose forward passes are over."""
        loss, samples, tokens = passes.take()
        if loss is None and not self._warned_no_loss:
            self._warned_no_loss = True
            logger.warning("NaN losses are not counted: the model returns no loss; call callback.attach(trainer)")
        if samples is None:
            self._session.lack_samples("the forward passes do not tell it", "call callback.attach(trainer)")
        if self._weights is not None and self._items is not None:
            with self._session.guard_outputs():
                self._session.weigh_batch(*self._weights.share(*self._items))
            self._items = None
        self._session.record_batch(loss=loss, samples=samples, tokens=tokens)

    def _compare_loss(self, logged: float) -> None:
        """Warns once if the logged loss is a multiple of the model's own."""
        if self._comparison is not None:
            with self._session.guard_outputs():
                factor = self._comparison.factor(float(logged))
                if not self._comparison.is_open:
                    self._comparison = None
                if factor > 1 and self._session.is_writer:
                    logger.warning(warning(factor, REMEDY))
