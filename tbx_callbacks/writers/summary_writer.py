"""Defines `SummaryWriter`, tensorboardX's SummaryWriter with a reliable event writer."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from numbers import Real
from typing import Any

import tensorboardX
from tensorboardX import summary as protos
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.writer import FileWriter

from tbx_callbacks.runs.folders import absolute, is_remote
from tbx_callbacks.runs.records import frame
from tbx_callbacks.writers.event_file import EventFile, LocalFile, file_name
from tbx_callbacks.writers.event_writer import EventWriter
from tbx_callbacks.writers.figure_fonts import fonts_of_all_characters
from tbx_callbacks.writers.remote_file import RemoteFile
from tbx_callbacks.writers.wall_clock import WallClock


class SummaryWriter(tensorboardX.SummaryWriter):  # type: ignore[misc]
    """tensorboardX's SummaryWriter with all of its public `add_*` methods, on top of `EventWriter`.

    Args:
        logdir: folder of the run, local or remote (`s3://`, `gs://`).
        purge_step: TensorBoard hides this step and later steps of earlier files in the folder.
        flush_secs: maximum delay of the fsync after an event was written; of the upload for remote folders.
        max_mib: memory for events while the disk cannot be written.

    Raises:
        ValueError: `flush_secs` or `max_mib` is out of range.
        OSError: the folder cannot be written. Later errors are reported in the log.
    """

    file_writer: Any
    logdir: str

    def __init__(
        self, logdir: str, purge_step: int | None = None, *, flush_secs: float | None = None, max_mib: float = 64.0
    ) -> None:
        check_options(flush_secs=flush_secs, max_mib=max_mib)
        self._options: dict[str, Any] = {"flush_secs": flush_secs, "max_mib": max_mib}
        super().__init__(logdir=logdir, purge_step=purge_step)

    def open_file_writer(self) -> Any:
        """Returns the file writer; after `close` its next event opens the file again."""
        return self._get_file_writer()

    def purge(self, step: int) -> None:
        """Makes TensorBoard hide all values written so far for this step and later, because they are trained again."""
        self._get_file_writer().add_event(Event(session_log=SessionLog(status=SessionLog.START)), step)

    def add_scalars(self, main_tag: str, tag_scalar_dict: Any, *args: Any, **kwargs: Any) -> None:
        """As in tensorboardX, writes each scalar to a separate run below this one, through `EventWriter` too."""
        base = self._get_file_writer().get_logdir()
        for tag in tag_scalar_dict:
            folder = f"{base}/{main_tag}/{tag}"
            if folder not in self.all_writers:
                self.all_writers[folder] = _FileWriter(folder, **self._options)
        super().add_scalars(main_tag, tag_scalar_dict, *args, **kwargs)

    def add_figure(self, tag: str, figure: Any, *args: Any, **kwargs: Any) -> None:
        """Draws figures as tensorboardX does, also with characters that matplotlib's own font lacks."""
        with contextlib.ExitStack() as fonts:
            for each in figure if isinstance(figure, list) else [figure]:
                fonts.enter_context(fonts_of_all_characters(each))
            super().add_figure(tag, figure, *args, **kwargs)

    def add_hparams(
        self, hparam_dict: Any, metric_dict: Any, name: str | None = None, global_step: int | None = None
    ) -> None:
        """As in tensorboardX, writes the session to a separate run below this one, through `EventWriter` too."""
        session = _FileWriter(f"{self._get_file_writer().get_logdir()}/{name or time.time()}", **self._options)
        for summary in protos.hparams(hparam_dict, metric_dict):
            session.add_summary(summary)
        for tag, value in metric_dict.items():
            session.add_summary(protos.scalar(tag, value), global_step)
        session.close()

    def close(self) -> None:
        """Closes all files; a later event opens them again."""
        for file_writer in self.all_writers.values():
            file_writer.close()

    def _get_file_writer(self) -> _FileWriter:
        file_writer: _FileWriter | None = self.file_writer
        if file_writer is None:  # in the constructor; only then a folder that cannot be written is an error
            self.logdir = absolute(self.logdir)
            self.file_writer = file_writer = _FileWriter(self.logdir, **self._options)
            file_writer.event_writer.open()
            self.all_writers = {file_writer.get_logdir(): file_writer}
            if self.purge_step is not None:
                self.purge(self.purge_step)
        return file_writer


class _FileWriter(FileWriter):  # type: ignore[misc]
    event_writer: EventWriter

    def __init__(self, logdir: str, *, flush_secs: float | None, max_mib: float) -> None:
        # Does not call FileWriter.__init__, which would open tensorboardX's event writer.
        secs = flush_secs if flush_secs is not None else (30.0 if is_remote(logdir) else 2.0)
        self._clock = clock = WallClock()
        self.event_writer = EventWriter(logdir, _Files(logdir, clock).open, flush_secs=secs, max_mib=max_mib)
        self._default_metadata: dict[str, Any] = {}

    def add_event(self, event: Any, step: Any = None, walltime: float | None = None) -> None:
        if walltime is None:
            walltime = self._default_metadata.get("walltime")
        super().add_event(event, step, self._clock.now() if walltime is None else walltime)


class _Files:
    """Opens one event file after the other in a folder, or the last one again."""

    def __init__(self, logdir: str, clock: WallClock) -> None:
        self._logdir, self._clock = logdir, clock
        self._start()

    def open(self) -> EventFile:
        if self._pid != os.getpid():  # in a forked child: the last file is that of the parent
            self._start()
        with self._opening:
            return self._open()

    def _start(self) -> None:
        self._last: LocalFile | None = None
        self._opening, self._pid = threading.Lock(), os.getpid()

    def _open(self) -> EventFile:
        header = frame(Event(wall_time=self._clock.now(), file_version="brain.Event:2").SerializeToString())
        if is_remote(self._logdir):
            return RemoteFile(f"{self._logdir.rstrip('/')}/{file_name()}", header)
        self._last = LocalFile(self._logdir, header, self._last)
        return self._last


def check_options(*, flush_secs: float | None, max_mib: float) -> None:
    """Checks the options of a writer.

    Raises:
        ValueError: one of them is not a number in its range.
    """
    if flush_secs is not None and not (_is_finite(flush_secs) and flush_secs >= 0):
        rule = "a finite number of seconds, 0 or more"
        raise ValueError(f"flush_secs must be {rule}, got {flush_secs!r}; leave it out for the default")
    if not (_is_finite(max_mib) and max_mib > 0):
        raise ValueError(f"max_mib must be a finite number above 0, got {max_mib!r}; leave it out for 64 MiB")


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, Real) and math.isfinite(value)


class NullSummaryWriter:
    """SummaryWriter for ranks that do not write: it has every public method, and none has an effect."""

    def __enter__(self) -> NullSummaryWriter:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def use_metadata(self, **metadata: object) -> contextlib.AbstractContextManager[NullSummaryWriter]:
        """Returns a context manager, as in tensorboardX."""
        return contextlib.nullcontext(self)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_") or not hasattr(SummaryWriter, name):
            raise AttributeError(f"SummaryWriter has no attribute {name!r}")
        return lambda *args, **kwargs: None  # noqa: ARG005
