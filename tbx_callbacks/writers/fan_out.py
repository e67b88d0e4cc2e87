"""Defines `FanOutWriter`, which passes values to the TensorBoard writer and to the writers beside it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Protocol

from tbx_callbacks._distributed.background_worker import Worker
from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks._text import reason
from tbx_callbacks.metrics.host_values import FinalValue
from tbx_callbacks.runs.folders import absolute, is_remote
from tbx_callbacks.tags import AXIS
from tbx_callbacks.writers.axis_writer import AxisWriter
from tbx_callbacks.writers.base import NullWriter, Writer
from tbx_callbacks.writers.summary_writer import NullSummaryWriter, SummaryWriter
from tbx_callbacks.writers.tensorboard import LogDirError, TensorBoardWriter

logger = logging.getLogger(__name__)

_MAX_PENDING = 128  # calls of a writer, each with the values of one step
_CLOSE_SECS = 10.0


class WriterFactory(Protocol):
    """Builds a writer from its class and options. It is pickled with the callback; its writer is not."""

    @property
    def name(self) -> str:
        """The writer's name in messages."""

    def build(self, log_dir: str) -> Writer:
        """Returns a new writer for the run in this folder."""


class NoEventFile(NullWriter):
    """Takes the place of the TensorBoard writer in a set without it.

    Args:
        log_dir: folder of the run.
    """

    def __init__(self, log_dir: str) -> None:
        self.log_dir, self.options = absolute(log_dir), dict[str, Any]()

    @property
    def summary_writer(self) -> NullSummaryWriter:
        """A SummaryWriter without effect."""
        return NullSummaryWriter()


class FanOutWriter(Writer):
    """Passes values to the TensorBoard writer, to one writer for each further axis, and to further writers.

    Each further writer is built, called and closed on a thread of its own, which starts with its first call. A writer
    that raises is reported once and gets no more calls. A writer that is slower than the training misses values. None
    of them changes, delays or ends the training or another writer.

    Args:
        main: the TensorBoard writer, or its replacement where the set does not name it; then there are no axes.
        others: the further writers.
        axes: the axes besides steps: `samples`, `tokens`, `epochs`.
    """

    def __init__(
        self, main: TensorBoardWriter | NoEventFile, others: Sequence[WriterFactory] = (), *, axes: Sequence[str] = ()
    ) -> None:
        self.log_dir, self._main = main.log_dir, main
        axes = axes if isinstance(main, TensorBoardWriter) else ()
        self._axes = [AxisWriter(main.log_dir, axis, **main.options) for axis in axes]
        self._others = [_BackgroundWriter(spec, main.log_dir) for spec in others]

    def __del__(self) -> None:
        for other in getattr(self, "_others", ()):
            other.drop()

    @property
    def has_event_file(self) -> bool:
        """Whether TensorBoard can show the run."""
        return isinstance(self._main, TensorBoardWriter)

    @property
    def summary_writer(self) -> SummaryWriter | NullSummaryWriter:
        """The run's SummaryWriter. Raises LogDirError if the folder cannot be written."""
        return self._main.summary_writer

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes values of one step."""
        run_values = {tag: value for tag, value in values.items() if not tag.startswith(AXIS)}
        if run_values:
            for other in self._others:
                other.write(step, run_values)
            self._main.write(step, run_values)
        self._call_axes("write", step, values)

    def purge(self, step: int) -> None:
        """Purges this step and later ones from every writer."""
        for other in self._others:
            other.call("purge", step)
        self._main.purge(step)
        self._call_axes("purge", step)

    def flush(self) -> None:
        """Returns when all values written before are on the disk; the further writers flush in the background."""
        for other in self._others:
            other.call("flush")
        self._main.flush()
        self._call_axes("flush")

    def release(self) -> bool:
        """Frees the threads and handles of event files until the next write, and flushes the further writers.

        Returns:
            Whether all are free: further writers stay open until `close`, because a new one may replace what this one
            has written.
        """
        for other in self._others:
            other.call("flush")
        self._main.close()
        self._call_axes("close")
        return not any(other.is_open for other in self._others)

    def close(self) -> None:
        """Closes every writer; waits at most 10 s for the further ones. A later write opens them again."""
        deadline = time.monotonic() + _CLOSE_SECS
        for other in self._others:
            other.call("close")
        self._main.close()
        self._call_axes("close")
        for other in self._others:
            other.join(deadline)

    def _call_axes(self, method: str, *arguments: object) -> None:
        for axis in list(self._axes):
            try:
                getattr(axis, method)(*arguments)
            except LogDirError as error:  # only this axis cannot be written
                self._axes.remove(axis)
                logger.warning("%s", error)


class _BackgroundWriter:
    """Calls one writer on its own thread."""

    def __init__(self, spec: WriterFactory, log_dir: str) -> None:
        self._spec, self._log_dir = spec, log_dir
        self._worker = Worker(f"tbx-writer {spec.name}", partial(self._disable, "its thread"))
        self._writer: Writer | None = None
        self._pid: int | None = None  # process of the thread, from the first call to the end of `close`
        self._is_disabled = self._is_slow = False
        self._passed = self._stored = 0  # numbers of values

    def __reduce__(self) -> tuple[object, ...]:
        return _BackgroundWriter, (self._spec, self._log_dir)  # a copy in another process builds its own writer

    @property
    def is_open(self) -> bool:
        """Whether it has a thread."""
        return self._pid == os.getpid() and not self._is_disabled

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Queues the values; drops them if the queue is full."""
        if self._is_disabled:
            return
        self._passed += len(values)
        if self._worker.pending < _MAX_PENDING:
            self.call("write", step, values)
        elif not self._is_slow:
            self._is_slow = True
            self._warn("misses values from step %d on: it is slower than the training; log less often", step)

    def call(self, method: str, *arguments: object) -> None:
        """Queues a call; before the first `write` or `purge` there is nothing to flush or close."""
        if self._pid is None and method in ("write", "purge"):
            self._pid = os.getpid()
        if self._is_disabled or self._pid != os.getpid():  # a forked child has no such thread
            return
        try:
            self._worker.submit(lambda: self._run(method, *arguments))
        except RuntimeError as error:  # the interpreter ends and starts no more threads
            self._disable(method, error)

    def join(self, deadline: float) -> None:
        """Waits until all calls are over, and reports how many values the writer has missed."""
        if self._pid != os.getpid():
            return
        if self._is_disabled:
            if self._worker.drain(max(0.0, deadline - time.monotonic())):  # its queued calls do nothing
                self._worker.close(_CLOSE_SECS)
            self._pid = None
            return
        if not self._worker.drain(max(0.0, deadline - time.monotonic())):
            self._is_disabled = True  # at its next call, if it ever gets there
            self._warn("did not finish within %g s: %d values may be lost", _CLOSE_SECS, self._passed - self._stored)
        elif self._stored < self._passed and not self._is_disabled:
            self._warn("missed %d values: it is slower than the training; log less often", self._passed - self._stored)
        self._worker.close(max(0.0, deadline - time.monotonic()))
        self._pid, self._is_slow = None, False
        self._passed = self._stored = 0

    def drop(self) -> None:
        """Closes the writer and ends the thread after all queued calls, without waiting for them."""
        self.call("close")
        if self._pid == os.getpid():
            self._worker.close()

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _run(self, method: str, *arguments: object) -> None:
        if self._is_disabled:
            return
        pid, stage, failure = os.getpid(), "construction", None
        try:
            if self._writer is None:
                if not is_remote(self._log_dir):
                    os.makedirs(self._log_dir, exist_ok=True)
                self._writer = self._spec.build(self._log_dir)
            stage = method
            getattr(self._writer, method, _ignore)(*map(_copy, arguments))
        except BaseException as error:  # not even sys.exit() or an interrupt ends the thread
            failure = error
        if os.getpid() != pid:
            os._exit(1)  # the writer has forked; the child must not wait here for ever
        if failure is not None:
            self._disable(stage, failure)
        elif method == "write":
            self._stored += sum(len(values) for values in arguments if isinstance(values, Mapping))
        elif method == "close":
            self._writer = None

    def _disable(self, stage: str, error: BaseException) -> None:
        was_disabled, self._is_disabled, self._writer = self._is_disabled, True, None
        self._worker.close()
        if not was_disabled:
            text = reason(error)
            self._warn("is disabled: %s raised %s; training and other writers continue; fix or remove it", stage, text)
            logger.debug("traceback of writer %s", self._spec.name, exc_info=error)

    def _warn(self, message: str, *arguments: object) -> None:
        logger.warning("writer %s " + message, self._spec.name, *arguments)


def _copy(argument: Any) -> Any:
    """Returns a copy that the writer may change without an effect on other writers."""
    if isinstance(argument, dict):
        return {tag: _copy(value) for tag, value in argument.items()}
    return argument if isinstance(argument, (int, float, HistogramCounts)) else deepcopy(argument)


def _ignore(*arguments: object) -> None:
    """Takes the place of a method that a writer does not define."""
