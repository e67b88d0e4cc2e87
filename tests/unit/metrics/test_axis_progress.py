"""Tests samples and tokens along the axes of a run."""

from __future__ import annotations

import torch

from tbx_callbacks.metrics.axis_progress import AxisProgress
from tbx_callbacks.metrics.context import Interval
from tests.helpers.contexts import context, finished


def test_axis_progress_only_chosen_axes_counted() -> None:
    interval = Interval(samples=8, tokens=torch.tensor(100))
    both = finished(AxisProgress(("samples", "tokens"))(context(interval=interval)))
    assert both == {"axis:samples": 8.0, "axis:tokens": 100.0}
    assert finished(AxisProgress(("tokens",))(context(interval=interval))) == {"axis:tokens": 100.0}
    assert finished(AxisProgress(("samples", "tokens"))(context())) == {}


def test_axis_progress_after_uncounted_batch_left_out() -> None:
    interval = Interval(samples=8, tokens=torch.tensor(100), incomplete=frozenset({"samples"}))
    assert finished(AxisProgress(("samples", "tokens"))(context(interval=interval))) == {"axis:tokens": 100.0}
