"""Tests histogram counts against numpy.histogram."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tbx_callbacks._stats import histogram, histogram_device
from tbx_callbacks._stats.flat import flat
from tbx_callbacks._stats.histogram import HistogramCounts


def on_cpu(tensors: list[Tensor], bins: int = 64) -> HistogramCounts:
    groups = [[flat(tensor) for tensor in tensors]]
    (packed,) = histogram.count(groups, histogram.value_ranges(groups), [bins])
    result = histogram.finish(packed.tolist())
    assert result is not None
    return result


def on_device(tensors: list[Tensor], bins: int = 64) -> HistogramCounts:
    """Counts as accelerators do; that code runs on any device."""
    flats = [flat(tensor) for tensor in tensors]
    (counted,) = histogram_device.count([flats], histogram_device.bounds([flats]), [bins])
    result = histogram.finish(counted.tolist())
    assert result is not None
    return result


def moved(one: HistogramCounts, other: HistogramCounts) -> int:
    """Twice the number of elements that rounding moved across an edge."""
    assert sum(one.counts) == sum(other.counts)
    return int(np.abs(np.array(one.counts) - np.array(other.counts)).sum())


VARIANTS = {"cpu": on_cpu, "device": on_device}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


CASES = {
    "normal": torch.randn(100_000),
    "several threads": torch.randn((1 << 19) + 5),
    "one piece and a bit": torch.randn((1 << 15) - 64 + 5),
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
@every_variant
def test_histogram_counts_match_numpy(variant: str, name: str, bins: int) -> None:
    tensor = CASES[name]
    values = tensor.double().numpy().reshape(-1)
    ours = VARIANTS[variant]([tensor], bins)
    edges = np.array(ours.edges)
    expected, _ = np.histogram(values, bins=edges)
    assert sum(ours.counts) == values.size == expected.sum()
    assert (ours.low, ours.high) == (values.min(), values.max())
    assert ours.total == pytest.approx(values.sum(), rel=1e-5, abs=1e-6 * np.abs(values).sum())
    assert ours.total_squares == pytest.approx(np.square(values).sum(), rel=1e-5)
    # Rounding may move an element across an edge.
    spacing = np.spacing(np.abs(values).max().astype(np.float32 if tensor.dtype != torch.float64 else np.float64))
    at_edge = sum((np.abs(values[:, None] - edges[None, 1:-1]) <= 2 * spacing).any(1)) if values.size < 30_000 else 20
    assert np.abs(np.array(ours.counts) - expected).sum() <= 2 * at_edge


@every_variant
def test_histogram_of_group_counts_as_one_tensor(variant: str) -> None:
    parts = [torch.randn(1000), 3 * torch.randn(50, 2), torch.empty(0), torch.randn(()), torch.randn(100_001)]
    together = torch.cat([part.reshape(-1) for part in parts])
    assert moved(VARIANTS[variant](parts), on_cpu([together])) <= 4


def test_histogram_of_many_groups_same_counts() -> None:
    groups = [[torch.randn(n % 7 * 900 + 1), torch.randn(40_000 * (n % 3))] for n in range(40)]
    bins = [1 + 13 * (n % 20) for n in range(40)]
    counted = histogram.count(groups, histogram.value_ranges(groups), bins)
    for group, n, packed in zip(groups, bins, counted, strict=True):
        assert histogram.finish(packed.tolist()) == on_cpu(group, n)
        assert sum(packed.tolist()[4:]) == sum(tensor.numel() for tensor in group)


def test_histogram_of_mixed_types_same_counts() -> None:
    parts = [torch.randn(100), torch.randn(50).double(), torch.randn(60_000).bfloat16(), torch.arange(5)]
    together = torch.cat([part.double() for part in parts])
    result = on_cpu(parts)
    assert sum(result.counts) == together.numel()
    # bf16 has few values: if one lies at an edge, many elements move together.
    at_edge = sum(int(((together - edge).abs() < 1e-6).sum()) for edge in result.edges)
    assert moved(result, on_cpu([together])) <= 2 * at_edge + 4


@every_variant
def test_histogram_leaves_out_nonfinite(variant: str) -> None:
    good = torch.randn(1000)
    bad = torch.cat([good, torch.tensor([math.nan, math.inf, -math.inf])])[torch.randperm(1003)]
    ours, expected = VARIANTS[variant]([bad]), on_cpu([good])
    assert moved(ours, expected) <= 4
    assert ours.total == pytest.approx(expected.total, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("tensors", [[], [torch.empty(0)], [torch.tensor([math.nan, math.inf])]])
def test_histogram_of_nothing_is_none(tensors: list[Tensor]) -> None:
    (packed,) = histogram.count([tensors], histogram.value_ranges([tensors]), [64])
    assert histogram.finish(packed.tolist()) is None
    if tensors:
        (bounds,) = histogram_device.bounds([tensors])
        (counted,) = histogram_device.count([tensors], [bounds], [64])
        assert histogram.finish(counted.tolist()) is None


@every_variant
def test_histogram_does_not_change_tensor(variant: str) -> None:
    tensor = torch.randn(1000, requires_grad=True)
    before = tensor.detach().clone()
    VARIANTS[variant]([tensor])
    assert torch.equal(tensor.detach(), before)
