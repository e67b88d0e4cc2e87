"""The callback for the Hugging Face Trainer."""

from __future__ import annotations

import logging
import math
import os
import weakref
from typing import Any

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from tbx_callbacks.adapters.base import Adapter, named_optimizers, scaler_of
from tbx_callbacks.adapters.batches import loss_in, samples_in, tokens_in
from tbx_callbacks.adapters.hf_attach import attach, is_attached
from tbx_callbacks.adapters.hf_facts import hparams, larger_is_better, log_schedule, spreads_nonfinite, tags, texts
from tbx_callbacks.adapters.hf_folder import before_training, choose, to_store
from tbx_callbacks.facts import Setup
from tbx_callbacks.folders import Place
from tbx_callbacks.forward import on_forward
from tbx_callbacks.shards import sharding
from tbx_callbacks.zero import zero_of

logger = logging.getLogger(__name__)

# Callbacks in use, to find the one that a restored one replaces: see _adopt.
_in_use: weakref.WeakSet[TbxTrainerCallback] = weakref.WeakSet()


class TbxTrainerCallback(Adapter, TrainerCallback, ExportableState):  # type: ignore[misc]
    """Logs a metric set to TensorBoard from a Hugging Face `Trainer`, on rank 0 only.

    Arguments, `writer`, `log` and `close` are those of `Adapter`. Without `log_dir` the run goes to a new folder in
    `<output_dir>/runs/`, as with the Trainer's own TensorBoard callback.
    """

    _args: Any = None
    _trainer: Any = None
    _forward_hook: Any = None
    _said_no_loss = False
    _max_grad_norm = 0.0
    stored: dict[str, str] = {}  # noqa: RUF012 - what a checkpoint kept; the Trainer sets it on the instance

    def attach(self, trainer: Any) -> TbxTrainerCallback:
        """Lets this callback see gradients before clipping: exact norms by layer, and the first layer that goes bad.

        It also sees the loss that is trained on where that is not the model's own (label smoothing, compute_loss).
        Adds the callback to the trainer if it is not there yet, and returns it.
        """
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
            self.on_init_end(trainer.args, trainer.state, trainer.control)
        self._trainer = trainer
        attach(trainer, self._monitor)
        return self

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps in a checkpoint: the run's folder."""
        kept = to_store(self._args, self.log_dir, self.config.digest) if self._args is not None else {}
        return {"args": {}, "attributes": {"stored": kept}}

    # -- events of the Trainer -------------------------------------------------------------------------------------

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._args = args
        self._writes = state.is_world_process_zero
        _in_use.add(self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._adopt(args)
        self._writes = state.is_world_process_zero
        if not self._measures:
            return
        model: nn.Module = kwargs["model"]
        self._unhook()
        if self._trainer is not None:
            attach(self._trainer, self._monitor)
        self._max_grad_norm = args.max_grad_norm or 0.0
        place = self._place(args, state) if self._writes else None
        zero = zero_of(kwargs["optimizer"])
        setup = Setup(
            model=model,
            optimizers=named_optimizers(kwargs["optimizer"]),
            log_schedule=log_schedule(args, state, kwargs.get("train_dataloader")),
            clipping="norm" if self._max_grad_norm > 0 else "none",
            spreads_nonfinite=spreads_nonfinite(args),
            sharding=_sharding(model, args) if zero is None else zero.refused,
            hparams=hparams(args, model),
            texts=texts(args, model),
            larger_is_better=larger_is_better(args),
            earlier_logs=[tags(logs) for logs in state.log_history],
            scaler=scaler_of(kwargs["optimizer"]),
            compiled=_is_compiled(model, args),
            zero=zero,
        )
        self._begin(place, setup, state.global_step)
        if "batches" in self._monitor.needs or self._wants_outputs:
            self._watch_batches(model, args)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._measures:
            self._step = state.global_step
            self._monitor.begin_step(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._measures:
            return
        if control.should_evaluate or control.should_save:
            self._monitor.stopwatch.pause()
        self._step = state.global_step
        self._monitor.pass_ended(is_step=True)
        # When the trainer is about to log, its numbers travel with the step. With logging by epoch that is only known
        # at the epoch's end; the next step's beginning publishes at the latest.
        if not control.should_log and args.logging_strategy != "epoch":
            self._monitor.publish()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._measures and (control.should_evaluate or control.should_save):
            self._monitor.stopwatch.pause()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not self._measures or not logs:
            return
        if self._writes and self._sink is None:
            self._open(before_training(args, self._wanted_dir))
        norm = logs.get("grad_norm") if "loss" in logs else None
        facts = {}
        if norm is not None and math.isfinite(norm) and self._max_grad_norm > 0:
            facts["clip_factor"] = min(1.0, self._max_grad_norm / (norm + 1e-6))  # torch.nn.utils.clip_grad_norm_
        self._monitor.logged(state.global_step, tags(logs), facts)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._running:
            self._end(state.global_step, succeeded=True)

    # -- ours ------------------------------------------------------------------------------------------------------

    def _place(self, args: Any, state: Any) -> Place:
        return choose(
            args,
            state,
            wanted=self._wanted_dir,
            current=self.log_dir,
            began=self._began,
            running=self._running,
            digest=self.config.digest,
            kind=type(self).__name__,
            taken={other.log_dir for other in _in_use if other is not self and other._running},
        )

    def _early_place(self) -> Place:
        if self._args is None and self._wanted_dir is None:
            raise RuntimeError(
                "callback.writer must be used after the callback was given to a Trainer, or with log_dir set;"
                " pass TbxTrainerCallback(log_dir=...) to use it earlier"
            )
        return before_training(self._args, self._wanted_dir)

    def _adopt(self, args: Any) -> None:
        """Becomes one with the callback that this one replaces.

        With `restore_callback_states_from_checkpoint` the Trainer makes a new callback in place of the user's. Both
        then share everything, so that the user's own reference, `attach` and `writer` stay alive.
        """
        if self._args is None:
            digest = self.stored.get("digest")
            replaced = [other for other in _in_use if other._args is args and other.config.digest == digest]
            if replaced:
                self.__dict__ = replaced[0].__dict__
            self._args = args

    def _watch_batches(self, model: nn.Module, args: Any) -> None:
        """Sees each micro-batch: in the trainer's training step when attached, or else in the model's forward."""
        if self._wants_outputs or not is_attached(self._trainer, self._monitor):
            self._forward_hook = on_forward(model, self._on_forward, compiled=_is_compiled(model, args))

    def _on_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        if not module.training:
            return
        if self._wants_outputs:
            self._monitor.outputs(outputs, kwargs.get("labels"))
        if is_attached(self._trainer, self._monitor) or "batches" not in self._monitor.needs:
            return
        loss = loss_in(outputs)
        if loss is None and not self._said_no_loss:
            self._said_no_loss = True
            logger.warning("the model returns no loss: NaN losses are not counted; attach(trainer) sees them")
        self._monitor.batch(loss=loss, samples=samples_in(kwargs), tokens=tokens_in(kwargs))

    def _unhook(self) -> None:
        if self._forward_hook is not None:
            self._forward_hook.remove()
            self._forward_hook = None


def _sharding(model: nn.Module, args: Any) -> str | None:
    return sharding(model.parameters()) or (
        "DeepSpeed without ZeRO (remedy: ZeRO stage 1, 2 or 3 without offloading)"
        if getattr(args, "deepspeed", None)
        else None
    )


def _is_compiled(model: nn.Module, args: Any) -> bool:
    """By the model's owner, by the Trainer or, as `accelerate launch` asks in the environment, by Accelerate."""
    by_accelerate = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no"
    return args.torch_compile or by_accelerate or getattr(model, "_compiled_call_impl", None) is not None
