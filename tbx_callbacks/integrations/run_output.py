"""Opens the writers of a run where it is written, and closes them between trainings."""

from __future__ import annotations

from typing import Any

from tbx_callbacks._config.metric_set import Config
from tbx_callbacks.writers.fan_out import FanOutWriter, NoEventFile
from tbx_callbacks.writers.registry import TENSORBOARD
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter
from tbx_callbacks.writers.tensorboard import TensorBoardWriter


class RunOutput:
    """The folder of a run and the writers of its metric set.

    Args:
        config: names the writers.
        **options: of the TensorBoard writer; those in the metric set take precedence.
    """

    def __init__(self, config: Config, **options: Any) -> None:
        self._config, self._options = config, options
        self._writer: FanOutWriter | None = None

    @property
    def log_dir(self) -> str | None:
        """The run's folder; None before it is known."""
        return self._writer.log_dir if self._writer is not None else None

    @property
    def is_known(self) -> bool:
        """Whether there is a run."""
        return self._writer is not None

    @property
    def summary_writer(self) -> SummaryWriter | NullSummaryWriter:
        """The run's SummaryWriter, opened if it was closed.

        Raises:
            LogDirError: the folder cannot be written.
        """
        assert self._writer is not None
        return self._writer.summary_writer

    def open(self, folder: str) -> FanOutWriter:
        """Opens the run in this folder, or keeps it open; closes the run before it.

        Raises:
            LogDirError: the folder cannot be written.
        """
        if self._writer is not None and self._writer.log_dir != folder:
            self.forget()
        if self._writer is None:
            main: TensorBoardWriter | NoEventFile = NoEventFile(folder)
            others = [spec for spec in self._config.writers if spec.name != TENSORBOARD]
            for spec in self._config.writers:
                if spec.name == TENSORBOARD:
                    main = TensorBoardWriter(folder, **{**self._options, **spec.options})
            self._writer = FanOutWriter(main, others, axes=self._config.axis[1:])
        try:
            _ = self._writer.summary_writer
        except OSError:
            self._writer = None
            raise
        return self._writer

    def release(self) -> bool:
        """Frees threads and handles until the next write; returns whether all are free."""
        return self._writer is None or self._writer.release()

    def close(self) -> None:
        """Closes all writers; a later write opens them again."""
        if self._writer is not None:
            self._writer.close()

    def forget(self) -> None:
        """Closes all writers; there is no run any more."""
        self.close()
        self._writer = None
