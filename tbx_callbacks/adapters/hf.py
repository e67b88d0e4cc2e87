"""The callback for the Hugging Face Trainer."""

from __future__ import annotations

import atexit
import logging
import math
import os
import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from tbx_callbacks.adapters.batches import loss_in, samples_in, tokens_in
from tbx_callbacks.adapters.hf_attach import attach
from tbx_callbacks.adapters.hf_facts import hparams, larger_is_better, log_schedule, raw_optimizer, tags, texts
from tbx_callbacks.adapters.hf_folder import Place, before_training, choose, to_store
from tbx_callbacks.config import Config, load_config
from tbx_callbacks.facts import Setup
from tbx_callbacks.monitor import Monitor
from tbx_callbacks.shards import sharding
from tbx_callbacks.sinks import NullSink
from tbx_callbacks.sinks.summary_writer import NullWriter, SummaryWriter
from tbx_callbacks.sinks.tensorboardx import TensorBoardSink

logger = logging.getLogger(__name__)


# Callbacks in use, to find the one that a restored one replaces: see _adopt.
_in_use: weakref.WeakSet[TbxTrainerCallback] = weakref.WeakSet()


class TbxTrainerCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Logs a metric set to TensorBoard from a Hugging Face `Trainer`, on rank 0 only.

    Args:
        config: the name of a metric set (`minimal`, `default`, `full`), the path of a YAML file, a mapping of the same
            structure, or a `Config`.
        log_dir: folder of the run; `$TENSORBOARD_LOGGING_DIR` when left out, or else a new folder in
            `<output_dir>/runs/`, as the Trainer's own TensorBoard callback has it. A folder that holds a run already is
            left alone: the new run goes beside it, unless it resumes from a checkpoint of that run.
        flush_secs: how long a step may wait for fsync (default 2 s; 30 s for uploads to `s3://` or `gs://`). It is in
            the file, safe from anything but a crash of the machine, when the step is over.
        max_mib: memory for values while the disk cannot be written.

    Raises:
        ConfigError: the metric set cannot be used.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | Config = "default",
        *,
        log_dir: str | os.PathLike[str] | None = None,
        flush_secs: float | None = None,
        max_mib: float = 64.0,
    ) -> None:
        self.config = load_config(config)
        wanted = os.fspath(log_dir) if log_dir is not None else os.environ.get("TENSORBOARD_LOGGING_DIR")
        self._wanted_dir = os.path.expanduser(wanted) if wanted else None
        self._sink_options: dict[str, Any] = {"flush_secs": flush_secs, "max_mib": max_mib}
        self._sink: TensorBoardSink | None = None
        self._args: Any = None
        self.stored: dict[str, str] = {}
        self._monitor = Monitor(self.config.items, every=self.config.every, strict=self.config.strict, sink=NullSink())
        self._writes = True
        self._began = self._running = False
        self._forward_hook: Any = None
        self._max_grad_norm = 0.0
        self._step = 0

    # -- for users -------------------------------------------------------------------------------------------------

    @property
    def log_dir(self) -> str | None:
        """Folder of the run; None before the callback belongs to a Trainer, and on ranks that do not write."""
        return self._sink.log_dir if self._sink else None

    @property
    def writer(self) -> SummaryWriter | NullWriter:
        """tensorboardX's SummaryWriter of this run; on ranks other than 0 one that does nothing.

        Raises:
            RuntimeError: the callback is not in a Trainer yet, so that the run's folder is not known.
        """
        if not self._writes:
            return NullWriter()
        if self._sink is None and self._wanted_dir is None and self._args is None:
            raise RuntimeError(
                "callback.writer must be used after the callback was given to a Trainer, or with log_dir set;"
                " pass TbxTrainerCallback(log_dir=...) to use it earlier"
            )
        if self._sink is None:
            self._open(before_training(self._args, self._wanted_dir))
        assert self._sink is not None
        return self._sink.writer

    def log(self, tag: str, value: Tensor | float) -> None:
        """Logs a scalar of your own, from `compute_loss` for example.

        Values are averaged on their device until the next point of the set's cadence; nothing waits for the device.

        Raises:
            ValueError: the tag holds characters that TensorBoard would rewrite, or the value is not a scalar.
        """
        if self._writes:
            self._monitor.log(tag, value)

    def attach(self, trainer: Any) -> TbxTrainerCallback:
        """Lets this callback see gradients before clipping: exact norms by layer, and the first layer that goes bad.

        Adds the callback to the trainer if it is not there yet, and returns it.
        """
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
            self.on_init_end(trainer.args, trainer.state, trainer.control)
        attach(trainer, self._monitor)
        return self

    def close(self) -> None:
        """Closes the event file. It happens by itself when the process ends.

        A run that has not ended (an exception in the loop; the Trainer tells callbacks nothing then) is marked as
        failed in the HParams tab, and what was measured but not published yet is written.
        """
        if self._running:
            self._running = False
            self._monitor.end(self._step, succeeded=False)
        self._monitor.detach()
        self._unhook()
        if self._sink is not None:
            self._sink.close()

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps in a checkpoint: the run's folder."""
        return {"args": {}, "attributes": {"stored": to_store(self._args, self.log_dir, self.config.source)}}

    # -- events of the Trainer -------------------------------------------------------------------------------------

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._args = args
        self._writes = state.is_world_process_zero
        _in_use.add(self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._adopt(args)
        self._writes = state.is_world_process_zero
        if not self._writes:
            return
        model: nn.Module = kwargs["model"]
        self._unhook()
        self._monitor.publish()  # of a training that was cut off, before its folder or its steps change
        place = choose(
            args,
            state,
            wanted=self._wanted_dir,
            current=self.log_dir,
            began=self._began,
            source=self.config.source,
            kind=type(self).__name__,
        )
        self._open(place)
        assert self._sink is not None
        if place.purge:
            self._sink.purge(state.global_step + 1)
        optimizer = raw_optimizer(kwargs["optimizer"])
        self._max_grad_norm = args.max_grad_norm or 0.0
        self._monitor.start(
            Setup(
                model=model,
                optimizers={type(optimizer).__name__: optimizer},
                log_schedule=log_schedule(args, state, kwargs.get("train_dataloader")),
                clipping="norm" if self._max_grad_norm > 0 else "none",
                spreads_nonfinite=True,  # with max_grad_norm=0 too: the norm for the log is taken by clipping to inf
                sharding=sharding(model.parameters()) or ("DeepSpeed" if getattr(args, "deepspeed", None) else None),
                hparams=hparams(args, model),
                texts=texts(args, model),
                larger_is_better=larger_is_better(args),
                earlier_logs=[tags(logs) for logs in state.log_history],
            )
        )
        if "batches" in self._monitor.needs:
            if args.world_size > 1:
                logger.warning(
                    "throughput in samples and tokens, and NaN losses, are not written with several ranks yet"
                )
            else:
                self._forward_hook = model.register_forward_hook(self._on_forward, with_kwargs=True)
        self._step = state.global_step
        self._began = self._running = True
        atexit.register(_close, weakref.ref(self))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._writes:
            self._step = state.global_step
            self._monitor.begin_step(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._writes:
            return
        if control.should_evaluate or control.should_save:
            self._monitor.stopwatch.pause()
        # When the trainer is about to log, its numbers travel with the step. With logging by epoch that is only known
        # at the epoch's end; the next step's beginning publishes at the latest.
        if not control.should_log and args.logging_strategy != "epoch":
            self._monitor.publish()

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not self._writes or not logs:
            return
        if self._sink is None:
            self._open(before_training(args, self._wanted_dir))
        norm = logs.get("grad_norm") if "loss" in logs else None
        facts = {}
        if norm is not None and math.isfinite(norm) and self._max_grad_norm > 0:
            facts["clip_factor"] = min(1.0, self._max_grad_norm / (norm + 1e-6))  # torch.nn.utils.clip_grad_norm_
        self._monitor.logged(state.global_step, tags(logs), facts)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._writes:
            self._unhook()
            self._running = False
            self._monitor.end(state.global_step, succeeded=True)

    # -- ours ------------------------------------------------------------------------------------------------------

    def _open(self, place: Place) -> None:
        """Goes on in the folder, or opens it; raises LogDirError now if it cannot be written."""
        if self._sink is not None and self._sink.log_dir != place.folder:
            self._sink.close()
            self._sink = None
        if self._sink is None:
            self._sink = TensorBoardSink(place.folder, **self._sink_options)
            self._monitor.publisher.sink = self._sink
            _ = self._sink.writer

    def _adopt(self, args: Any) -> None:
        """Becomes one with the callback that this one replaces.

        With `restore_callback_states_from_checkpoint` the Trainer makes a new callback in place of the user's. Both
        then share everything, so that the user's own reference, `attach` and `writer` stay alive.
        """
        if self._args is None:
            source = self.stored.get("source")
            replaced = [other for other in _in_use if other._args is args and other.config.source == source]
            if replaced:
                self.__dict__ = replaced[0].__dict__
            self._args = args

    def _on_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        if module.training:
            self._monitor.batch(loss=loss_in(outputs), samples=samples_in(kwargs), tokens=tokens_in(kwargs))

    def _unhook(self) -> None:
        if self._forward_hook is not None:
            self._forward_hook.remove()
            self._forward_hook = None


def _close(reference: weakref.ref[TbxTrainerCallback]) -> None:
    callback = reference()
    if callback is not None:
        callback.close()
