"""Finished values as protocol buffers of TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorboardX import summary as protos
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.proto.summary_pb2 import HistogramProto, Summary

from tbx_callbacks.host_values import HParams, HParamsEnd, HParamsMetrics, Layout, Text
from tbx_callbacks.parts import Finished
from tbx_callbacks.stats.histogram import HistogramCounts


def summary_value(tag: str, value: Finished) -> Summary.Value:
    """One value of a step's summary, under its tag as it is."""
    if isinstance(value, float):
        return Summary.Value(tag=tag, simple_value=value)
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
    return Summary.Value(tag=tag, histo=proto)


def _text(tag: str, value: Text) -> Summary:
    return protos.text(tag, value.markdown)


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
