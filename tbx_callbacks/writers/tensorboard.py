"""Writes steps to TensorBoard event files through tensorboardX."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from tensorboardX import summary as protos
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.proto.summary_pb2 import HistogramProto, Summary

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.host_values import FinalValue, HParams, HParamsEnd, HParamsMetrics, Layout, Text
from tbx_callbacks.runs.folders import absolute
from tbx_callbacks.writers.summary_writer import SummaryWriter, check_options


def summary_value(tag: str, value: FinalValue) -> Summary.Value:
    """Returns one value of a step's summary, with the tag unchanged."""
    if isinstance(value, float):
        return Summary.Value(tag=tag, simple_value=value)
    summary = _BUILDERS[type(value)](tag, value)
    return summary.value[0] if isinstance(summary, Summary) else summary


def _histogram(tag: str, value: HistogramCounts) -> Summary.Value:
    bins = len(value.counts)
    numbers = np.empty(2 * bins + 2)
    numbers[: bins + 1] = value.edges
    numbers[bins + 1] = 0  # buckets have only right edges: an empty first bucket holds the left edge of the first bin
    numbers[bins + 2 :] = value.counts
    packed, size = numbers.astype("<f8", copy=False).tobytes(), 8 * (bins + 1)
    summary_value = Summary.Value(tag=tag)
    histo = summary_value.histo
    # Encoded here, because a repeated field takes each number as a Python object, which is six times slower.
    histo.ParseFromString(b"".join((_key("bucket_limit", size), packed[:size], _key("bucket", size), packed[size:])))
    histo.min, histo.max, histo.num = value.low, value.high, sum(value.counts)
    histo.sum, histo.sum_squares = value.total, value.total_squares
    return summary_value


@cache
def _key(field: str, size: int) -> bytes:
    """Returns what precedes the bytes of a packed field: its number, its wire type (2) and its size as varints."""
    number = HistogramProto.DESCRIPTOR.fields_by_name[field].number
    encoded = bytearray([number << 3 | 2])
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(encoded + bytes([size]))


def _text(tag: str, value: Text) -> Summary:
    return protos.text(tag, value.markdown)


def _hparams(tag: str, value: HParams) -> Summary:  # noqa: ARG001
    return protos.hparams(dict(value.values), {})[1]


def _hparams_metrics(tag: str, value: HParamsMetrics) -> Summary:  # noqa: ARG001
    return protos.hparams(dict(value.values), dict.fromkeys(value.tags, 0.0))[0]


def _hparams_end(tag: str, value: HParamsEnd) -> Summary:  # noqa: ARG001
    summary = protos.hparams({}, {})[2]
    if not value.succeeded:
        metadata = summary.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(metadata.content)
        content.session_end_info.status = 2  # STATUS_FAILURE in tensorboard/plugins/hparams/api.proto
        metadata.content = content.SerializeToString()
    return summary


def _layout(tag: str, value: Layout) -> Summary:  # noqa: ARG001
    charts = {
        category: {title: ["Multiline", list(tags)] for title, tags in titled.items()}
        for category, titled in value.charts.items()
    }
    return protos.custom_scalars(charts)


_BUILDERS: dict[type, Callable[[str, Any], Any]] = {
    HistogramCounts: _histogram,
    Text: _text,
    HParams: _hparams,
    HParamsMetrics: _hparams_metrics,
    HParamsEnd: _hparams_end,
    Layout: _layout,
}


_NOT_A_FOLDER = (FileExistsError, NotADirectoryError)
_FILE_IN_THE_WAY = "there is a file where the folder should be"  # the error's own text names an event file in it


class LogDirError(OSError):
    """The run's folder cannot be written; the message names the path, the reason and the remedy."""


class TensorBoardWriter:
    """Writes one event a step to the event file of a run's folder.

    Args:
        log_dir: folder of the run, local or remote (`s3://`, `gs://`).
        flush_secs: see `SummaryWriter`.
        max_mib: see `SummaryWriter`.

    Raises:
        ValueError: `flush_secs` or `max_mib` is out of range.
        LogDirError: the folder is relative, and the working directory was deleted.
    """

    def __init__(
        self, log_dir: str | os.PathLike[str], *, flush_secs: float | None = None, max_mib: float = 64.0
    ) -> None:
        check_options(flush_secs=flush_secs, max_mib=max_mib)
        self.log_dir = os.fsdecode(log_dir)
        try:
            self.log_dir = absolute(log_dir)
        except OSError as error:  # the working directory was deleted
            raise self._error(error) from error
        self.options: dict[str, Any] = {"flush_secs": flush_secs, "max_mib": max_mib}
        self._writer: SummaryWriter | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process opens its own file, and only when it writes.
        return {**self.__dict__, "_writer": None}

    @property
    def summary_writer(self) -> SummaryWriter:
        """The run's SummaryWriter, opened on first use.

        Raises:
            LogDirError: the folder cannot be written.
        """
        if self._writer is None:
            try:
                self._writer = SummaryWriter(self.log_dir, **self.options)
            except Exception as error:
                raise self._error(error) from error
        return self._writer

    def write(self, step: int, values: Mapping[str, FinalValue]) -> None:
        """Writes all values of a step as one event."""
        event = Event()
        event.summary.value.extend(summary_value(tag, value) for tag, value in values.items())
        file_writer = self.summary_writer.open_file_writer()
        file_writer.add_event(event, step)
        file_writer.event_writer.settle()

    def purge(self, step: int) -> None:
        """Makes TensorBoard hide this step and later steps of this folder, because they are trained again."""
        self.summary_writer.purge(step)

    def flush(self) -> None:
        """Returns when all values written before are on the disk."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Closes the event file; a later write opens it again, or a new file if it is not as it was left."""
        if self._writer is not None:
            self._writer.close()

    def _error(self, error: Exception) -> LogDirError:
        why = _FILE_IN_THE_WAY if isinstance(error, _NOT_A_FOLDER) else f"{error}"
        return LogDirError(f"cannot write a run to {self.log_dir!r}: {why}; {_remedy(error)}")


def _remedy(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "or choose a local log_dir"
    if isinstance(error, _NOT_A_FOLDER):
        return "choose another log_dir or remove the file"
    if isinstance(error, PermissionError):
        return "choose a log_dir that this user may write, or change its permissions"
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return "close files, or raise the number of open files that the system allows"
    if getattr(error, "errno", None) == errno.EAGAIN:
        return "end threads, or raise the number of threads that the system allows"
    return "choose another log_dir"
