"""Tests the estimated singular values against torch.linalg.svdvals in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tbx_callbacks._stats.singular_values import largest_singular_values

SHAPES = [(40, 30), (30, 40), (3, 200), (200, 3), (1, 50), (50, 1), (1, 1), (64, 64)]


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def estimate(weight: Tensor, iterations: int = 24, start: Tensor | None = None) -> tuple[float, Tensor]:
    start = matrix(weight.shape[1], seed=9) if start is None else start
    (found,) = largest_singular_values([(weight, start, iterations)])
    return float(found.square) ** 0.5, found.direction


def exact(weight: Tensor) -> float:
    return float(torch.linalg.svdvals(weight.double())[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e25])
def test_largest_singular_value_matches_decomposition(shape: tuple[int, int], scale: float) -> None:
    weight = scale * matrix(*shape)
    assert estimate(weight)[0] == pytest.approx(exact(weight), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_low_rank_matrix_right(rank: int) -> None:
    weight = matrix(30, rank) @ matrix(rank, 40, seed=1)
    assert estimate(weight)[0] == pytest.approx(exact(weight), rel=1e-5)


def test_equal_singular_values_right() -> None:
    assert estimate(3 * torch.eye(20))[0] == pytest.approx(3.0, rel=1e-6)


def test_estimate_is_lower_bound_and_grows() -> None:
    weight = matrix(100, 100)
    found = [estimate(weight, iterations)[0] for iterations in (1, 2, 4, 8, 16, 32)]
    assert found == sorted(found)
    assert found[-1] <= exact(weight) * (1 + 1e-6)


def test_direction_carries_over() -> None:
    weight = matrix(100, 100)
    _, direction = estimate(weight, 24)
    assert estimate(weight, 1, direction)[0] == pytest.approx(exact(weight), rel=1e-4)
    values = []
    direction = matrix(100, seed=9)
    for _ in range(8):  # a changing matrix, two iterations each time
        weight = weight + 1e-3 * matrix(100, 100, seed=5)
        value, direction = estimate(weight, 2, direction)
        values.append(value / exact(weight))
    assert values[-1] > values[0]
    assert values[-1] > 0.97


def test_zero_matrix_zero_and_start_kept() -> None:
    start = matrix(6, seed=9)
    value, direction = estimate(torch.zeros(4, 6), 4, start)
    assert value == 0.0
    assert torch.allclose(direction, start / start.norm())


def test_nan_matrix_nan_and_recovers() -> None:
    weight = matrix(5, 6)
    value, direction = estimate(torch.full((5, 6), float("nan")))
    assert value != value
    assert estimate(weight, 24, direction)[0] == pytest.approx(exact(weight), rel=1e-5)


def test_double_precision_kept() -> None:
    weight = matrix(20, 20).double()
    assert estimate(weight)[0] == pytest.approx(exact(weight), rel=1e-12)


@pytest.mark.parametrize(
    ("weight", "iterations", "is_settled", "is_low"),
    [
        (matrix(300, 300), 4, False, True),
        (matrix(300, 300), 24, True, False),
        (matrix(300, 2), 24, True, False),
        (torch.zeros(5, 6), 4, False, False),
        (torch.full((5, 6), float("nan")), 4, False, False),
        (matrix(300, 300), 1, True, False),
    ],
)
def test_unsettled_value_known(weight: Tensor, iterations: int, is_settled: bool, is_low: bool) -> None:
    (found,) = largest_singular_values([(weight, matrix(weight.shape[1], seed=9), iterations)])
    assert (bool(found.is_settled), bool(found.is_low)) == (is_settled, is_low)
