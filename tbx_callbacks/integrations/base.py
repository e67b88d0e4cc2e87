"""What every adapter gives its users: a metric set, a run's folder, tensorboardX's writer, scalars of their own."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._config.metric_set import Config, load_config
from tbx_callbacks._distributed.rank import in_group
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.plan import axis_specs
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.outputs import OUTPUTS
from tbx_callbacks._stats.types import Number
from tbx_callbacks.metrics.values import StepInfo
from tbx_callbacks.runs.folders import RunLocation
from tbx_callbacks.writers.axes import AxesWriter
from tbx_callbacks.writers.base import NullWriter
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

_CUT_OFF = 5.0  # seconds that a training waits for what other ranks have to say of the one before it
ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | Config


class Integration:
    """The part of a callback that no trainer changes. Every rank measures; rank 0 (`_writes`) alone opens a file.

    Args:
        config: the name of a metric set (`minimal`, `default`, `full`), the path of a YAML file, a mapping of the same
            structure, or a `Config`.
        log_dir: folder of the run; `$TENSORBOARD_LOGGING_DIR` when left out, or else a new folder where the trainer
            keeps its output. A folder that holds a run already is left alone: the new run goes beside it, unless it
            resumes from a checkpoint of that run. May be `s3://...` or `gs://...`.
        flush_secs: how long a step may wait for fsync (default 2 s; 30 s for uploads). It is in the file, safe from
            anything but a crash of the machine, when the step is over.
        max_mib: memory for values while the disk cannot be written.

    Raises:
        ConfigError: the metric set cannot be used.
    """

    def __init__(
        self,
        config: ConfigSource = "default",
        *,
        log_dir: str | os.PathLike[str] | None = None,
        flush_secs: float | None = None,
        max_mib: float = 64.0,
    ) -> None:
        self.config = load_config(config)
        wanted = os.fspath(log_dir) if log_dir is not None else os.environ.get("TENSORBOARD_LOGGING_DIR")
        self._wanted_dir = os.path.expanduser(wanted) if wanted else None
        self._writer_options: dict[str, Any] = {"flush_secs": flush_secs, "max_mib": max_mib}
        self._writer: TensorBoardWriter | None = None
        self._engine = Engine(
            [*self.config.items, *axis_specs(self.config.axis)],
            every=self.config.every,
            strict=self.config.strict,
            writer=NullWriter(),
            budget=self.config.overhead_budget,
            live=self.config.live,
        )
        self._is_writer = self._participates = True
        self._began = self._running = False
        self._hooks: list[Any] = []
        self._step = 0

    @property
    def log_dir(self) -> str | None:
        """Folder of the run; None before it is known, and on ranks that do not write."""
        return self._writer.log_dir if self._writer else None

    @property
    def step(self) -> int:
        """Optimizer steps taken so far."""
        return self._step

    @property
    def writer(self) -> SummaryWriter | NullSummaryWriter:
        """tensorboardX's SummaryWriter of this run; on ranks other than 0 one that does nothing.

        Raises:
            RuntimeError: the run's folder is not known yet.
            LogDirError: the folder cannot be written.
        """
        if not self._is_writer:
            return NullSummaryWriter()
        if self._writer is None:
            self._open(self._location_before_training())
        assert self._writer is not None
        return self._writer.summary_writer

    def log(self, tag: str, value: Tensor | float) -> None:
        """Logs a scalar of your own, from a loss function for example.

        Values are averaged on their device until the next point of the set's cadence; nothing waits for the device.

        Raises:
            ValueError: the tag holds characters that TensorBoard would rewrite, or the value is not a scalar.
        """
        if self._is_writer:
            self._engine.log(tag, value)

    def close(self) -> None:
        """Closes the event file. It happens by itself when the process ends.

        A run that has not ended (an exception in the loop) is marked as failed in the HParams tab, and what was
        measured but not published yet is written.
        """
        if self._running:
            self._end(self._step, succeeded=False)
        elif self._writer is not None:
            self._engine.record_logs(self._step, {})  # the user's own scalars of after the training
        self._engine.detach()
        self._unhook()
        if self._writer is not None:
            self._writer.close()

    # -- for adapters ----------------------------------------------------------------------------------------------

    @property
    def _is_active(self) -> bool:
        """Whether this rank takes part: it writes, or shares with the rank that does."""
        return self._participates and (self._is_writer or in_group())

    def _location_before_training(self) -> RunLocation:
        """The folder of what is written before training begins."""
        raise RuntimeError("the run's folder is not known before training; pass log_dir=... to write earlier")

    @property
    def _wants_outputs(self) -> bool:
        """Whether a metric reads what the model returns."""
        return not OUTPUTS.isdisjoint(self._engine.needs)

    def _unhook(self) -> None:
        """Removes what the adapter itself hooked into the model and the optimizer."""
        while self._hooks:
            self._hooks.pop().remove()

    def _open(self, location: RunLocation) -> TensorBoardWriter:
        """Goes on in the folder, or opens it; raises LogDirError now if it cannot be written."""
        if self._writer is not None and self._writer.log_dir != location.folder:
            self._engine.publisher.wait_for_device()
            self._writer.close()
            self._writer = None
        if self._writer is None:
            writer = AxesWriter(location.folder, self.config.axis[1:], **self._writer_options)
            _ = writer.summary_writer
            self._writer = self._engine.publisher.writer = writer
        return self._writer

    def _begin(self, location: RunLocation | None, step: int, *, info: TrainingInfo) -> None:
        """Training begins (or goes on) after `step` steps; without a place on ranks that do not write."""
        self._finish_previous(location)
        if location is not None:
            writer = self._open(location)
            if location.resume:
                writer.purge(step + 1)
        self._engine.start(info, (location.folder, step) if location is not None and location.resume else None)
        self._step = step
        self._began = self._running = True
        atexit.register(_close, weakref.ref(self))

    def _finish_previous(self, location: RunLocation | None) -> None:
        """Writes what is left of a training that was cut off, before its folder or its steps change."""
        if self._running and location is not None and location.folder != self.log_dir:
            self._end(self._step, succeeded=False)  # by an exception
        self._engine.flush_step()
        self._engine.publisher.drain(_CUT_OFF)

    def _record_logs(self, step: int, logs: Mapping[str, Number | str], step_info: StepInfo | None = None) -> None:
        """The trainer logged numbers (by tag) after `step` steps, perhaps before a training."""
        if self._is_writer and self._writer is None:
            self._open(self._location_before_training())
        self._engine.record_logs(step, logs, step_info)
        self._engine.stopwatch.restart_waiting()

    def _end(self, step: int, *, succeeded: bool) -> None:
        self._running = False
        self._unhook()
        self._engine.end(step, succeeded=succeeded)


def named_optimizers(optimizer: Any) -> dict[str, torch.optim.Optimizer]:
    """torch's own optimizers inside wrappers (Accelerate's, Lightning's), by name.

    Args:
        optimizer: one, several, or several by name. Without names they go by their class: `AdamW`, `AdamW-1`.

    Raises:
        TypeError: something is not an optimizer of torch.
    """
    if isinstance(optimizer, Mapping):
        return {name: _raw(wrapped) for name, wrapped in optimizer.items()}
    named: dict[str, torch.optim.Optimizer] = {}
    for raw in map(_raw, optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]):
        name, n = type(raw).__name__, 0
        while (f"{name}-{n}" if n else name) in named:
            n += 1
        named[f"{name}-{n}" if n else name] = raw
    return named


def scaler_of(optimizer: Any) -> Any:
    """The GradScaler that Accelerate has put into its optimizers; None without one."""
    optimizers = optimizer.values() if isinstance(optimizer, Mapping) else optimizer
    wrapped = optimizers if isinstance(optimizers, Iterable) else [optimizers]
    return next((found for one in wrapped if (found := getattr(one, "scaler", None)) is not None), None)


def _raw(optimizer: Any) -> torch.optim.Optimizer:
    while not hasattr(optimizer, "_optimizer_step_post_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"an optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    return optimizer


def _close(reference: weakref.ref[Integration]) -> None:
    adapter = reference()
    if adapter is not None:
        adapter.close()
