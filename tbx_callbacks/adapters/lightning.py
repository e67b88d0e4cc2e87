"""The callback for the Lightning Trainer, of the package lightning or of pytorch_lightning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from tbx_callbacks.adapters.base import named_optimizers
from tbx_callbacks.adapters.batches import loss_in, samples_in, tokens_in
from tbx_callbacks.adapters.counted import CountedSteps
from tbx_callbacks.adapters.lightning_facts import clipping, epoch, held, hparams, loss_scale, scaler, tensors, texts
from tbx_callbacks.adapters.lightning_listener import Listener
from tbx_callbacks.facts import Setup
from tbx_callbacks.folders import Place, beside, fresh_folder, holds_run
from tbx_callbacks.forward import on_forward
from tbx_callbacks.schedule import every
from tbx_callbacks.shards import sharding

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback


class TbxLightningCallback(CountedSteps, Callback):  # type: ignore[misc]
    """Logs a metric set to TensorBoard from a Lightning `Trainer`, on rank 0 only.

    Arguments, `writer`, `log` and `close` are those of `Adapter`. Without `log_dir` the run goes to a new folder in
    `<default_root_dir>/runs/`. Steps are finished steps of the (first) optimizer, from 1; `every: log` means every
    `log_every_n_steps` of them. What the module logs with `self.log` is written too, under its own names, with or
    without a logger in the Trainer; `train/loss` comes from what `training_step` returns. Gradients are seen before
    clipping, so norms and the first non-finite layer are exact. A model that the module merely holds (its only child
    with parameters) goes by its own names, as under the other trainers.
    """

    _stored: Mapping[str, Any] = {}
    _names: Mapping[int, str] = {}
    _max_norm: float | None = None
    _forward_hook: Any = None
    _labels: Any = None
    _divides = False  # whether Lightning divides the loss for the accumulation

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._shares = not trainer.fast_dev_run
        self._writes = trainer.is_global_zero and self._shares
        self._root = trainer.default_root_dir
        if stage != "fit":
            self._listen(trainer)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # Not in setup: a logger that is there then would change where ModelCheckpoint saves.
        self._listen(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not self._measures:
            return
        optimizers = named_optimizers(list(trainer.optimizers))
        self._names = {id(optimizer): name for name, optimizer in optimizers.items()}
        clips = clipping(trainer, pl_module)
        self._max_norm = trainer.gradient_clip_val if clips == "norm" else None
        self._divides = pl_module.automatic_optimization
        setup = Setup(
            model=held(pl_module),
            optimizers=optimizers,
            log_schedule=every(max(1, trainer.log_every_n_steps)),
            clipping=clips,
            spreads_nonfinite=clips == "norm",
            sharding=sharding(pl_module.parameters()),
            hparams=hparams(pl_module),
            texts=texts(pl_module),
            scaler=scaler(trainer),
        )
        step = self._stored.get("step", self._step) if trainer.global_step else 0
        self._begin(self._place(step) if self._writes else None, setup, step)
        self._stored = {}  # a later fit goes on from here
        if self._wants_outputs:
            self._forward_hook = on_forward(setup.model, self._on_forward)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._labels = batch.get("labels") if isinstance(batch, Mapping) else None

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._running:
            name = self._names.get(id(optimizer)) or self._names.get(id(getattr(optimizer, "optimizer", None)))
            self._see_gradients(loss_scale(trainer, optimizer), optimizer=name, max_norm=self._max_norm)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._running:
            inputs: Mapping[Any, Any] = batch if isinstance(batch, Mapping) else dict(enumerate(tensors(batch)))
            loss = loss_in(outputs)
            if loss is not None and self._divides and trainer.accumulate_grad_batches > 1:
                loss = loss * trainer.accumulate_grad_batches
            fraction = epoch(trainer, batch_idx) if self._logs_next else None
            self._end_pass(loss=loss, samples=samples_in(inputs), tokens=tokens_in(inputs), epoch=fraction)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._monitor.stopwatch.pause()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self._running:
            self._monitor.stopwatch.resume()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._running:
            self._end(self._step, succeeded=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._running:
            self._end(self._step, succeeded=False)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        trainer.loggers = [logger for logger in trainer.loggers if not isinstance(logger, Listener)]

    def state_dict(self) -> dict[str, Any]:
        """What Lightning keeps in a checkpoint: the run's folder and step."""
        return {"log_dir": self.log_dir and os.path.abspath(self.log_dir), "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what a checkpoint kept."""
        self._stored = state_dict

    # -- ours ------------------------------------------------------------------------------------------------------

    def _on_forward(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], outputs: Any) -> None:
        if module.training:
            self._see_outputs(outputs, kwargs.get("labels", self._labels))

    def _unhook(self) -> None:
        super()._unhook()
        if self._forward_hook is not None:
            self._forward_hook.remove()
            self._forward_hook = None

    def _listen(self, trainer: Any) -> None:
        if not trainer.fast_dev_run and not any(isinstance(logger, Listener) for logger in trainer.loggers):
            trainer.loggers = [*trainer.loggers, Listener(self._take_logs, str(self._root))]

    def _take_logs(self, metrics: Mapping[str, float]) -> None:
        """Numbers that the module logged, after `_step` steps."""
        if self._writes:
            if self._sink is None:
                self._open(self._early_place())
            self._monitor.logged(self._step, {name: float(value) for name, value in metrics.items()})

    def _place(self, step: int) -> Place:
        stored = self._stored.get("log_dir")
        if step and stored and holds_run(stored) and self._wanted_dir in (None, stored):
            return Place(stored, purge=True)
        if step and (self.log_dir or self._wanted_dir):
            return Place(str(self.log_dir or self._wanted_dir), purge=True)
        return Place(self.log_dir) if self.log_dir and not self._began else self._early_place()

    def _early_place(self) -> Place:
        if self._wanted_dir:
            return Place(beside(self._wanted_dir))
        if not hasattr(self, "_root"):
            return super()._early_place()
        return Place(fresh_folder(os.path.join(self._root, "runs")))
