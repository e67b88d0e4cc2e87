"""Tests the results of mergeable values, from one rank or several."""

from __future__ import annotations

import math

import pytest
import torch

from tbx_callbacks.metrics.values import (
    ClipFactor,
    Inverse,
    Max,
    Mean,
    Norm,
    RankOfMax,
    Rate,
    Ratio,
    Rms,
    Sum,
    Unless,
    Value,
)


def merged(*ranks: Value) -> object:
    """The merged result on rank 0, from the partial values of all ranks."""
    sums = [sum(map(float, parts)) for parts in zip(*(value.sums() for value in ranks), strict=True)]
    maxes = [max(map(float, parts)) for parts in zip(*(value.maxes() for value in ranks), strict=True)]
    return ranks[0].result(sums, maxes)


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([Sum(1.0), Sum(torch.tensor(2.0))], 3.0),
        ([Mean(6.0, 2), Mean(2.0, 2)], 2.0),
        ([Mean(0.0, 0)], None),
        ([Max(1.0), Max(-3.0)], 1.0),
        ([RankOfMax(2**36, 0), RankOfMax(2**36 + 1, 7)], 7.0),
        ([RankOfMax(5, 0), RankOfMax(5, 2)], 2.0),
        ([RankOfMax(5, 65_535), RankOfMax(4, 65_534)], 65_535.0),
        ([Inverse(0.5), Inverse(0.25)], 2.0),
        ([Inverse(0.0)], None),
        ([Rate(10, 2.0), Rate(20, 4.0)], 7.5),
        ([Rate(10, 0.0)], None),
        ([Norm(9.0), Norm(16.0)], 5.0),
        ([Rms(8.0, 1), Rms(10.0, 1)], 3.0),
        ([Rms(0.0, 0)], None),
        ([Ratio(9.0, 36.0)], 0.5),
        ([Ratio(9.0, 0.0)], None),
        ([ClipFactor(4.0, 1.0)], 1.0 / (2.0 + 1e-6)),
        ([ClipFactor(0.25, 1.0)], 1.0),
        ([Unless(Sum(1.0), 0.0), Unless(Sum(1.0), 1.0)], None),
        ([Unless(Sum(1.0), 0.0), Unless(Sum(1.0), 0.0)], 2.0),
    ],
    ids=str,
)
def test_value_merged_over_ranks_result(ranks: list[Value], expected: float | None) -> None:
    assert merged(*ranks) == (None if expected is None else pytest.approx(expected))


def test_norm_of_nan_square_is_nan() -> None:
    assert math.isnan(Norm(0.0).result([math.nan], []) or 0.0)
