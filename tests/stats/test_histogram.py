"""Histogram counts against numpy.histogram."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tbx_callbacks.stats.histogram import HistogramCounts, count, value_range


def finish(tensors: list[Tensor], bins: int = 64) -> HistogramCounts:
    low, high = value_range(tensors)
    counts, total, squares = count(tensors, low, high, bins)
    return HistogramCounts(tuple(counts.tolist()), low, high, total, squares)


CASES = {
    "normal": torch.randn(100_000),
    "one chunk and a bit": torch.randn((1 << 18) + 5),
    "near one": 1 + 1e-4 * torch.randn(5000),
    "far from zero": 1e6 + torch.randn(5000),
    "heavy tail": torch.randn(20_000) ** 5,
    "tiny": 1e-38 * torch.rand(1000),
    "huge": 1e38 * torch.randn(1000).clamp(-3, 3),
    "float64": torch.randn(1000, dtype=torch.float64) * 1e-12 + 1,
    "bf16": torch.randn(5000).bfloat16(),
    "fp16": torch.randn(5000).half(),
    "one value": torch.full((100,), 0.25),
    "one element": torch.tensor(-3.0),
    "two values": torch.tensor([0.0, 1.0, 1.0]),
    "sorted": torch.linspace(-1, 1, 6400),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bins", [1, 64, 255])
def test_counts_are_numpys(name: str, bins: int) -> None:
    tensor = CASES[name]
    values = tensor.double().numpy().reshape(-1)
    ours = finish([tensor], bins)
    edges = np.array(ours.edges)
    expected, _ = np.histogram(values, bins=edges)
    assert sum(ours.counts) == values.size == expected.sum()
    assert (ours.low, ours.high) == (values.min(), values.max())
    assert ours.total == pytest.approx(values.sum(), rel=1e-5, abs=1e-6 * np.abs(values).sum())
    assert ours.total_squares == pytest.approx(np.square(values).sum(), rel=1e-5)
    # An element within one rounding error of an edge may be counted on either side of it.
    spacing = np.spacing(np.abs(values).max().astype(np.float32 if tensor.dtype != torch.float64 else np.float64))
    at_edge = sum((np.abs(values[:, None] - edges[None, 1:-1]) <= 2 * spacing).any(1)) if values.size < 30_000 else 20
    assert np.abs(np.array(ours.counts) - expected).sum() <= 2 * at_edge


def test_a_group_is_counted_as_one_tensor() -> None:
    parts = [torch.randn(1000), 3 * torch.randn(50, 2), torch.empty(0), torch.randn(())]
    together = torch.cat([part.reshape(-1) for part in parts])
    assert finish(parts).counts == finish([together]).counts


def test_nonfinite_elements_are_left_out() -> None:
    good = torch.randn(1000)
    bad = torch.cat([good, torch.tensor([math.nan, math.inf, -math.inf])])[torch.randperm(1003)]
    ours, expected = finish([bad]), finish([good])
    assert ours.counts == expected.counts
    assert ours.total == pytest.approx(expected.total, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("tensors", [[], [torch.empty(0)], [torch.tensor([math.nan, math.inf])]])
def test_nothing_to_count(tensors: list[Tensor]) -> None:
    low, high = value_range(tensors)
    assert low > high


def test_the_tensor_is_not_changed() -> None:
    tensor = torch.randn(1000, requires_grad=True)
    before = tensor.detach().clone()
    finish([tensor])
    assert torch.equal(tensor.detach(), before)
