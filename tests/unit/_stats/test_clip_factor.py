"""Tests the clip factor against torch.nn.utils.clip_grad_norm_."""

from __future__ import annotations

import math

import pytest
import torch

from tbx_callbacks._stats.clip_factor import clip_factor, is_clipped


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
