"""Tests that numbers keep their kind in a maximum over ranks, for which gloo ignores NaN."""

from __future__ import annotations

import math
from itertools import permutations

import pytest

from tbx_callbacks._distributed.collectives import _decoded, _encoded


@pytest.mark.parametrize(
    ("numbers", "largest"),
    [
        ([1.0, 2.0], 2.0),
        ([-1.0, -2.0], -1.0),
        ([1.0, math.nan], math.nan),
        ([math.inf, 1.0], math.inf),
        ([-math.inf, -1.0], -1.0),
        ([-math.inf, -math.inf], -math.inf),
        ([math.inf, math.nan], math.nan),
        ([-math.inf, math.nan], math.nan),
    ],
)
def test_maximum_over_ranks_keeps_nan_and_inf(numbers: list[float], largest: float) -> None:
    for ordered in permutations(numbers):
        (found,) = _decoded([max(_encoded(ordered))])
        assert found == largest or (math.isnan(found) and math.isnan(largest))
