"""Tests the clip factor against torch.nn.utils.clip_grad_norm_."""

from __future__ import annotations

import math

import pytest
import torch

from tbx_callbacks._stats.clip_factor import clip_factor, is_clipped, max_of, ratio_bounds


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 50.0])
def test_clip_factor_matches_torch(scale: float) -> None:
    gradient = torch.randn(100, generator=torch.Generator().manual_seed(0)) * scale
    parameter = torch.nn.Parameter(torch.zeros(100))
    parameter.grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    expected = (parameter.grad.norm() / gradient.norm()).item()
    assert clip_factor(float(norm), 1.0) == pytest.approx(expected, rel=1e-5)
    assert clip_factor(norm, 1.0).item() == pytest.approx(expected, rel=1e-5)
    assert bool(is_clipped(norm, 1.0)) == (expected < 0.999)


def test_clip_factor_without_limit_is_one() -> None:
    assert clip_factor(math.inf, math.inf) == clip_factor(3.0, math.inf) == 1.0


def test_clip_factor_of_nan_norm_is_nan() -> None:
    assert math.isnan(clip_factor(math.nan, 1.0))
    assert clip_factor(torch.tensor(math.nan), 1.0).isnan()
    assert clip_factor(math.inf, 1.0) == 0.0


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([4.0, 1.0], [1.0, 0.25], (0.25, 0.25)),
        ([4.0, 1.0], [1.0, 1.0], (0.25, 1.0)),
        ([4.0, 0.0, 1e-20], [1.0, 0.0, 1e-20], (0.25, 0.25)),  # nothing to compare in the second and the third
        ([4.0, INF], [0.0, NAN], (0.0, 0.0)),
        ([4.0, NAN], [NAN, NAN], (0.0, 0.0)),
        ([0.0], [0.0], (INF, -INF)),
    ],
)
def test_ratio_bounds_of_squares(before: list[float], after: list[float], expected: tuple[float, float]) -> None:
    lowest, highest = ratio_bounds(torch.tensor(before), torch.tensor(after))
    assert (-float(lowest), float(highest)) == expected


def test_max_of_tensors_and_empty_bounds() -> None:
    assert max_of([torch.tensor(1.0), torch.tensor(2.0, dtype=torch.float64)]).item() == 2.0
    assert ratio_bounds(torch.zeros(0), torch.zeros(0)) == []
