"""The sink that writes event files."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from tbx_callbacks.parts import Finished
from tbx_callbacks.sinks.protos import summary_value
from tbx_callbacks.sinks.summary_writer import SummaryWriter


class LogDirError(OSError):
    """The run's folder cannot be written; the message names the path, the reason and the remedy."""


class TensorBoardSink:
    """Writes one event a step to the event file of a run's folder.

    Args:
        log_dir: folder of the run, local or remote (`s3://`, `gs://`).
        flush_secs: see `SummaryWriter`.
        max_mib: see `SummaryWriter`.
    """

    def __init__(
        self, log_dir: str | os.PathLike[str], *, flush_secs: float | None = None, max_mib: float = 64.0
    ) -> None:
        self.log_dir = os.fspath(log_dir)
        self._options: dict[str, Any] = {"flush_secs": flush_secs, "max_mib": max_mib}
        self._writer: SummaryWriter | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process opens a file of its own, and only if it is asked to write.
        return {**self.__dict__, "_writer": None}

    @property
    def writer(self) -> SummaryWriter:
        """The run's SummaryWriter, opened on first use.

        Raises:
            LogDirError: the folder cannot be written.
        """
        if self._writer is None:
            try:
                self._writer = SummaryWriter(self.log_dir, **self._options)
            except (OSError, ImportError) as error:
                raise LogDirError(f"cannot write a run to {self.log_dir!r}: {error}; {_remedy(error)}") from error
        return self._writer

    def write(self, step: int, values: Mapping[str, Finished]) -> None:
        """Writes all values of a step as one event."""
        summary = Summary(value=[summary_value(tag, value) for tag, value in values.items()])
        file_writer = self.writer.reopened()
        file_writer.add_event(Event(summary=summary), step, time.time())
        file_writer.event_writer.settle()

    def purge(self, step: int) -> None:
        """Makes TensorBoard hide what this folder holds of this step and later ones: they are trained again."""
        self.writer.purge(step)

    def flush(self) -> None:
        """Returns when all that was written before is on the disk."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Closes the event file; a later write opens another one in the same folder."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _remedy(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "or choose a local log_dir"
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return "there is a file where the folder should be: choose another log_dir or remove the file"
    if isinstance(error, PermissionError):
        return "choose a log_dir that this user may write, or change its permissions"
    return "choose another log_dir"
