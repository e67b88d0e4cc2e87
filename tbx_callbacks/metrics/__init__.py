"""Exports the bundled metrics and the types for writing a metric."""

from __future__ import annotations

from tbx_callbacks._model.parameters import PerGroup, Select
from tbx_callbacks.metrics.base import Metric, Values
from tbx_callbacks.metrics.context import Context
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.registry import METRICS
from tbx_callbacks.metrics.values import Histogram, Max, Mean, Norm, Rate, Ratio, Rms, Sum, Value

__all__ = [
    "METRICS",
    "Context",
    "Histogram",
    "Max",
    "Mean",
    "Metric",
    "Norm",
    "PerGroup",
    "Rate",
    "Ratio",
    "Rms",
    "Select",
    "Sum",
    "Text",
    "Value",
    "Values",
]
