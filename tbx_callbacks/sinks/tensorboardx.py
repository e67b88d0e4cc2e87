"""The only module that imports tensorboardX: its SummaryWriter over our event writer, and a sink on top."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorboardX
from tensorboardX import summary as protos
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.proto.summary_pb2 import HistogramProto, Summary
from tensorboardX.writer import FileWriter

from tbx_callbacks.names import check_tag
from tbx_callbacks.reduce import Finished
from tbx_callbacks.sinks.event_writer import EventWriter
from tbx_callbacks.stats.histogram import HistogramCounts
from tbx_callbacks.values import HParams, HParamsEnd, HParamsMetrics, Layout, Text


class SummaryWriter(tensorboardX.SummaryWriter):  # type: ignore[misc]
    """tensorboardX's SummaryWriter, all of its public `add_*` methods, over an event writer that loses nothing."""

    file_writer: Any

    def __init__(self, logdir: str, purge_step: int | None = None) -> None:
        super().__init__(logdir=logdir, purge_step=purge_step)

    def _get_file_writer(self) -> _FileWriter:
        file_writer: _FileWriter | None = self.file_writer
        if file_writer is None:
            self.file_writer = file_writer = _FileWriter(self.logdir)
            file_writer.add_event(Event(file_version="brain.Event:2"))
            if self.purge_step is not None:
                file_writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), self.purge_step)
            self.all_writers = {file_writer.get_logdir(): file_writer}
        return file_writer


class _FileWriter(FileWriter):  # type: ignore[misc]
    def __init__(self, logdir: str) -> None:
        # Not FileWriter's own __init__: it would open tensorboardX's event writer, which this replaces.
        self.event_writer = EventWriter(str(logdir))
        self._default_metadata: dict[str, Any] = {}


class NullWriter:
    """The SummaryWriter of ranks that do not write: it has every public method, and none does anything."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_") or not hasattr(tensorboardX.SummaryWriter, name):
            raise AttributeError(f"SummaryWriter has no attribute {name!r}")
        return lambda *args, **kwargs: None  # noqa: ARG005


class TensorBoardSink:
    """Writes one event a step to the event file of a run's folder."""

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self.log_dir = Path(log_dir)
        self._writer: SummaryWriter | None = None

    @property
    def writer(self) -> SummaryWriter:
        """The run's SummaryWriter, opened on first use."""
        if self._writer is None:
            self._writer = SummaryWriter(str(self.log_dir))
        return self._writer

    def write(self, step: int, values: Mapping[str, Finished]) -> None:
        """Writes all values of a step as one event."""
        summary = Summary(value=[_summary_value(tag, value) for tag, value in values.items()])
        self.writer.file_writer.add_event(Event(summary=summary), step, time.time())

    def flush(self) -> None:
        """Returns when all that was written before is on the disk."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Closes the event file; a later write opens another one in the same folder."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _summary_value(tag: str, value: Finished) -> Summary.Value:
    if isinstance(value, float):
        return Summary.Value(tag=check_tag(tag), simple_value=value)
    built = _BUILDERS[type(value)](tag, value)
    return built.value[0] if isinstance(built, Summary) else built


def _histogram(tag: str, value: HistogramCounts) -> Summary.Value:
    proto = HistogramProto(
        min=value.low,
        max=value.high,
        num=sum(value.counts),
        sum=value.total,
        sum_squares=value.total_squares,
        # Buckets are given by their right edges only: an empty one in front carries the left edge of the first.
        bucket_limit=value.edges,
        bucket=[0, *value.counts],
    )
    return Summary.Value(tag=check_tag(tag), histo=proto)


def _text(tag: str, value: Text) -> Summary:
    return protos.text(check_tag(tag), value.markdown)


def _hparams(tag: str, value: HParams) -> Summary:  # noqa: ARG001
    return protos.hparams(dict(value.values), {})[1]


def _hparams_metrics(tag: str, value: HParamsMetrics) -> Summary:  # noqa: ARG001
    return protos.hparams(dict(value.values), dict.fromkeys(value.tags, 0.0))[0]


def _hparams_end(tag: str, value: HParamsEnd) -> Summary:  # noqa: ARG001
    ended = protos.hparams({}, {})[2]
    if not value.succeeded:
        metadata = ended.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(metadata.content)
        content.session_end_info.status = 2  # STATUS_FAILURE in tensorboard/plugins/hparams/api.proto
        metadata.content = content.SerializeToString()
    return ended


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
