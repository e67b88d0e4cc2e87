"""Tests histograms of weights, gradients and updates against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tbx_callbacks._stats.histogram import HistogramCounts
from tbx_callbacks.metrics.histograms import GradHistogram, UpdateHistogram, WeightHistogram
from tests.helpers.contexts import by_layer, context, finished, model, tensors

WEIGHTS = [weight.detach() for weight in model().parameters()]
GRADIENTS = [gradient / 10 for gradient in tensors(1)]


@pytest.mark.parametrize(
    ("metric", "family", "chosen"),
    [
        (WeightHistogram(bins=8), "weights", WEIGHTS),
        (GradHistogram(bins=8), "grads", GRADIENTS),
        (UpdateHistogram(bins=8), "updates", tensors(2)),
    ],
    ids=["weights", "grads", "updates"],
)
def test_histogram_of_layer_counts_match_numpy(metric: Any, family: str, chosen: list[Any]) -> None:
    values = finished(metric(context()))
    layers = {layer: elements.numpy() for layer, elements in by_layer(chosen).items()}
    assert set(values) == {f"{family}/{layer}" for layer in layers}
    for layer, elements in layers.items():
        counts = values[f"{family}/{layer}"]
        assert isinstance(counts, HistogramCounts)
        assert (counts.low, counts.high) == (elements.min(), elements.max())
        expected, _ = np.histogram(elements, bins=np.array(counts.edges))
        assert np.abs(np.array(counts.counts) - expected).sum() <= 2  # an element at an edge
        assert counts.total == pytest.approx(elements.sum(), abs=1e-5)


@pytest.mark.parametrize("metric", [WeightHistogram, GradHistogram, UpdateHistogram])
def test_histogram_metric_too_many_bins_refused(metric: Any) -> None:
    with pytest.raises(ValueError, match="bins must be between 1 and 255"):
        metric(bins=256)
