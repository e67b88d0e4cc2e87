"""Tests sums of squares and counts against float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tbx_callbacks._stats.norms import count_nonfinite, square_norms

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def naive(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 3), (1 << 16,), ((1 << 18) + 13,)])
def test_square_norms_match_float64(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(shape).to(dtype)
    assert square_norms([tensor]).tolist() == pytest.approx([naive(tensor)], rel=4e-6)


def test_square_norms_of_large_tensor_exact() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(4_000_000)
    exact = math.sqrt(naive(tensor))
    assert math.sqrt(square_norms([tensor])[0]) == pytest.approx(exact, rel=1e-6)
    # This inexact result is the reason for square_norms; it can go once torch is exact here.
    assert abs(torch.linalg.vector_norm(tensor).item() / exact - 1) > 1e-6


def test_square_norms_beyond_float32_exact() -> None:
    for value in (1e30, 1e-30):
        tensor = torch.full((10,), value)
        assert square_norms([tensor]).item() == pytest.approx(naive(tensor), rel=1e-5, abs=1e-60)


def test_square_norms_of_views_exact() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = [base.t(), base[:, 1], torch.ones(1).expand(5), base[::2, ::2]]
    assert square_norms(tensors).tolist() == pytest.approx([naive(tensor) for tensor in tensors], rel=1e-6)


def test_square_norms_of_complex_and_sparse_exact() -> None:
    complex_tensor = torch.tensor([3 + 4j, 1j])
    sparse = torch.sparse_coo_tensor([[0, 2, 2]], [1.0, 2.0, 3.0], (4,), check_invariants=True)  # coalesces to 1 and 5
    assert square_norms([complex_tensor, sparse]).tolist() == pytest.approx([26.0, 26.0], rel=1e-6)


def test_square_norms_of_nothing_empty() -> None:
    assert square_norms([]).shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
def test_count_nonfinite_counts_nan_and_inf(dtype: torch.dtype) -> None:
    bad = torch.tensor([1.0, math.nan, math.inf, -math.inf, 0.0]).to(dtype)
    good = torch.ones(4, dtype=dtype)
    huge = torch.full((3,), 1e30)  # finite, though its squares overflow float32
    tensors = [good, bad, torch.empty(0), huge]
    assert count_nonfinite(tensors, square_norms(tensors)).tolist() == [0.0, 3.0, 0.0, 0.0]
    assert not math.isfinite(square_norms([bad]).item())
