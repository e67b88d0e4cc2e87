"""Tests norms of products against the singular values of the products themselves, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tbx_callbacks._stats.low_rank import product_norms


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def exact(a: Tensor, b: Tensor) -> tuple[float, float]:
    product = b.double().reshape(len(b), -1) @ a.double().reshape(len(a), -1)
    singular = torch.linalg.svdvals(product)
    return float(singular.square().sum()), float(singular[0] ** 2)


def close(a: Tensor, b: Tensor) -> None:
    ((square, largest),) = product_norms([(a, b)])
    assert (float(square), float(largest)) == pytest.approx(exact(a, b), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 8, 64])
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e8])
def test_product_norms_match_singular_values(rank: int, scale: float) -> None:
    close(matrix(rank, 40), scale * matrix(30, rank, 1))


def test_product_norms_equal_singular_values_right() -> None:
    close(torch.eye(8, 20), torch.eye(30, 8))  # powers separate nothing


def test_product_norms_ill_conditioned_right() -> None:
    a = matrix(8, 40)
    a[1:] = a[0] + 1e-4 * a[1:]
    b = matrix(30, 8, 1) * torch.logspace(0, -5, 8)
    close(a, b)


def test_product_norms_nearly_equal_singular_values_right() -> None:
    close(torch.diag(torch.tensor([1.0, 0.999999, 0.5])), torch.eye(3))


def test_product_norms_more_rank_than_outputs_right() -> None:
    close(matrix(16, 5), matrix(3, 16, 1))


def test_product_norms_half_precision_and_convolution_right() -> None:
    close(matrix(4, 27).view(4, 3, 3, 3).bfloat16(), matrix(6, 4, 1).view(6, 4, 1, 1).half())


def test_product_norms_several_pairs_keep_order() -> None:
    pairs = [(matrix(rank, 10, rank), matrix(7, rank, rank + 1)) for rank in (2, 4, 2, 3, 4)]
    found = [(float(square), float(largest)) for square, largest in product_norms(pairs)]
    assert found == [pytest.approx(exact(a, b), rel=1e-9) for a, b in pairs]
    assert product_norms([]) == []


def test_product_norms_zero_and_nan() -> None:
    ((square, _),) = product_norms([(matrix(2, 5), torch.zeros(3, 2))])
    assert float(square) == 0.0
    ((square, largest),) = product_norms([(matrix(2, 5) * float("nan"), torch.ones(3, 2))])
    assert float(square) != float(square)
    assert float(largest) != float(largest)
