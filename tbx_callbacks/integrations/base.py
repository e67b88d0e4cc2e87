"""Defines `Integration`: the metric set, the run folder, the writer and the user scalars of every integration."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tbx_callbacks._config.metric_set import Config, load_config
from tbx_callbacks._distributed.packing import Facts
from tbx_callbacks._distributed.rank import in_group
from tbx_callbacks._engine.engine import Engine
from tbx_callbacks._engine.metric_plan import axis_specs
from tbx_callbacks._engine.training_info import TrainingInfo
from tbx_callbacks._model.outputs import OUTPUTS
from tbx_callbacks._stats.types import Number
from tbx_callbacks.runs.folders import RunLocation
from tbx_callbacks.writers.base import NullWriter
from tbx_callbacks.writers.fan_out import FanOutWriter
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter

_DRAIN_SECONDS = 5.0  # maximum wait for the other ranks' values of the previous training
ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | Config


class Integration:
    """The part of an integration that does not depend on the trainer.

    Every rank computes metrics; only rank 0 (`_is_writer`) opens a file.

    Args:
        config: the name of a metric set (`minimal`, `default`, `full`), the path of a YAML file, a mapping of the same
            structure, or a `Config`.
        log_dir: folder of the run. Default: `$TENSORBOARD_LOGGING_DIR`, or else a new folder where the trainer keeps
            its output. An existing run in the folder is not touched: the new run is written to a folder beside it,
            unless it resumes from a checkpoint of that run. May be `s3://...` or `gs://...`.
        flush_secs: longest time in seconds until a step is fsynced (default 2; 30 for uploads). The step is in the file
            as soon as it is over. Before the fsync, only a crash of the machine can lose it.
        max_mib: memory in MiB for values while the disk cannot be written.

    Raises:
        ConfigError: the metric set is invalid.
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
        requested = os.fspath(log_dir) if log_dir is not None else os.environ.get("TENSORBOARD_LOGGING_DIR")
        self._wanted_dir = os.path.expanduser(requested) if requested else None
        self._writer_options: dict[str, Any] = {"flush_secs": flush_secs, "max_mib": max_mib}
        self._writer: FanOutWriter | None = None
        self._engine = Engine(
            [*self.config.items, *axis_specs(self.config.axis)],
            every=self.config.every,
            strict=self.config.strict,
            writer=NullWriter(),
            budget=self.config.overhead_budget,
            live=self.config.live,
        )
        self._is_writer = self._participates = True
        self._has_begun = self._running = False
        self._hooks: list[Any] = []
        self._step = 0

    @property
    def log_dir(self) -> str | None:
        """Folder of the run; None before it is known, and on ranks that do not write."""
        return self._writer.log_dir if self._writer else None

    @property
    def step(self) -> int:
        """Number of finished optimizer steps."""
        return self._step

    @property
    def writer(self) -> SummaryWriter | NullSummaryWriter:
        """The run's tensorboardX `SummaryWriter`; on ranks other than 0 a writer that does nothing.

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
        """Logs a user scalar, for example from a loss function.

        Values are averaged on their device until the next point of the set's cadence, without a host sync.

        Raises:
            ValueError: the tag contains characters that TensorBoard would rewrite, or the value is not a scalar.
        """
        if self._is_writer:
            self._engine.log(tag, value)

    def close(self) -> None:
        """Closes the event file. This happens automatically when the process ends.

        A run that has not ended (an exception in the loop) is marked as failed in the HParams tab, and its unpublished
        values are written.
        """
        if self._running:
            self._end(self._step, succeeded=False)
        elif self._writer is not None:
            self._engine.record_logs(self._step, {})  # user scalars logged after the training
        self._engine.detach()
        self._unhook()
        if self._writer is not None:
            self._writer.close()

    # -- for subclasses ----------------------------------------------------------------------------------------------

    @property
    def _is_active(self) -> bool:
        """Whether this rank takes part: it writes, or shares its values with the rank that writes."""
        return self._participates and (self._is_writer or in_group())

    def _location_before_training(self) -> RunLocation:
        """The folder for values that are logged before training begins."""
        raise RuntimeError("the run's folder is not known before training; pass log_dir=... to write earlier")

    @property
    def _wants_outputs(self) -> bool:
        """Whether a metric reads the model's outputs."""
        return not OUTPUTS.isdisjoint(self._engine.needs)

    def _unhook(self) -> None:
        """Removes the hooks that the integration itself installed in the model and the optimizer."""
        while self._hooks:
            self._hooks.pop().remove()

    def _open(self, location: RunLocation) -> FanOutWriter:
        """Opens the folder, or keeps it open; raises LogDirError now if it cannot be written."""
        if self._writer is not None and self._writer.log_dir != location.folder:
            self._engine.wait_for_device()
            self._writer.close()
            self._writer = None
        if self._writer is None:
            main = TensorBoardWriter(location.folder, **self._writer_options)
            writer = FanOutWriter(main, axes=self.config.axis[1:])
            _ = writer.summary_writer
            self._writer = self._engine.writer = writer
        return self._writer

    def _begin(self, location: RunLocation | None, step: int, *, info: TrainingInfo) -> None:
        """Begins or resumes training after `step` steps; `location` is None on ranks that do not write."""
        self._finish_previous(location)
        if location is not None:
            writer = self._open(location)
            if location.resume:
                writer.purge(step + 1)
        self._engine.start(info, (location.folder, step) if location is not None and location.resume else None)
        self._step = step
        self._has_begun = self._running = True
        atexit.register(_close, weakref.ref(self))

    def _finish_previous(self, location: RunLocation | None) -> None:
        """Writes the remaining values of an interrupted training, before its folder or its steps change."""
        if self._running and location is not None and location.folder != self.log_dir:
            self._end(self._step, succeeded=False)  # an exception ended it
        self._engine.flush_step()
        self._engine.drain(_DRAIN_SECONDS)

    def _record_logs(self, step: int, logs: Mapping[str, Number | str], facts: Facts | None = None) -> None:
        """Records values (by tag) that the trainer logged after `step` steps, perhaps before a training."""
        if self._is_writer and self._writer is None:
            self._open(self._location_before_training())
        self._engine.record_logs(step, logs, facts)
        self._engine.stopwatch.restart_waiting()

    def _end(self, step: int, *, succeeded: bool) -> None:
        self._running = False
        self._unhook()
        self._engine.end(step, succeeded=succeeded)


def named_optimizers(optimizer: Any) -> dict[str, torch.optim.Optimizer]:
    """Unwraps torch's optimizers from wrappers (Accelerate's, Lightning's) and names them.

    Args:
        optimizer: one, several, or several by name. Unnamed ones are named by class: `AdamW`, `AdamW-1`.

    Raises:
        TypeError: an object is not a torch optimizer.
    """
    if isinstance(optimizer, Mapping):
        return {name: _unwrap(wrapped) for name, wrapped in optimizer.items()}
    named: dict[str, torch.optim.Optimizer] = {}
    for raw in map(_unwrap, optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]):
        name, n = type(raw).__name__, 0
        while (f"{name}-{n}" if n else name) in named:
            n += 1
        named[f"{name}-{n}" if n else name] = raw
    return named


def scaler_of(optimizer: Any) -> Any:
    """The GradScaler in Accelerate's optimizers; None without one."""
    optimizers = optimizer.values() if isinstance(optimizer, Mapping) else optimizer
    wrapped = optimizers if isinstance(optimizers, Iterable) else [optimizers]
    return next((scaler for candidate in wrapped if (scaler := getattr(candidate, "scaler", None)) is not None), None)


def _unwrap(optimizer: Any) -> torch.optim.Optimizer:
    while not hasattr(optimizer, "_optimizer_step_post_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"an optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    return optimizer


def _close(reference: weakref.ref[Integration]) -> None:
    integration = reference()
    if integration is not None:
        integration.close()
