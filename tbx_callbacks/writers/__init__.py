"""Writers store the values of each step: `TensorBoardWriter` in event files, others beside it."""

from __future__ import annotations

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.host_values import FinalValue, HParams, HParamsEnd, HParamsMetrics, Layout, Text
from tbx_callbacks.writers.base import MemoryWriter, NullWriter, Writer
from tbx_callbacks.writers.tensorboard import LogDirError, TensorBoardWriter

__all__ = [
    "FinalValue",
    "HParams",
    "HParamsEnd",
    "HParamsMetrics",
    "HistogramCounts",
    "Layout",
    "LogDirError",
    "MemoryWriter",
    "NullWriter",
    "TensorBoardWriter",
    "Text",
    "Writer",
]
