"""Tests merging over ranks on threads, and that numbers keep their kind in a maximum: gloo ignores NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from tbx_callbacks._distributed.collectives import END, Merger, RankMismatchError, UnmatchedError, _decoded, _encoded
from tbx_callbacks._distributed.group import GlooGroup
from tbx_callbacks.metrics.values import Partial, Sum


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


Batch = tuple[str, int]


def merge(*batches: list[Batch]) -> list[dict[Batch, float | str]]:
    """Merges the batches of each rank on a thread of its own; returns the sums of 1, or the kind of error."""
    store = HashStore()

    def rank(number: int) -> dict[Batch, float | str]:
        merger, found = Merger(GlooGroup(store, number, len(batches), 10.0)), {}
        for what, step in batches[number]:
            try:
                parts = merger.all_reduce(what, step, {"tag": Partial(Sum(0.0), (1.0,))})
                found[what, step] = parts["tag"].sums[0]
            except UnmatchedError:
                found[what, step] = "unmatched"
            except RankMismatchError:
                found[what, step] = "ended"
        return found

    with ThreadPoolExecutor(len(batches)) as pool:
        return list(pool.map(rank, range(len(batches))))


def test_merger_step_of_one_rank_left_out() -> None:
    own, others = merge(
        [("a", 1), ("a", 2), ("a", 3), ("a", 4)],
        [("a", 2), ("a", 4)],
    )
    assert own == {("a", 1): "unmatched", ("a", 2): 2.0, ("a", 3): "unmatched", ("a", 4): 2.0}
    assert others == {("a", 2): 2.0, ("a", 4): 2.0}


def test_merger_other_metrics_at_step_left_out() -> None:
    for found in merge([("a", 1), ("a", 2)], [("b", 1), ("a", 2)]):
        assert sorted(map(str, found.values())) == ["2.0", "unmatched"]


def test_merger_three_ranks_merge_common_steps() -> None:
    every: Callable[[int], list[Batch]] = lambda n: [("a", step) for step in range(n, 13, n)]  # noqa: E731
    for period, found in zip((1, 2, 3), merge(every(1), every(2), every(3)), strict=True):
        assert {step for (_, step), merged in found.items() if merged == 3.0} == {6, 12}
        assert len(found) == 12 // period


def test_merger_ended_rank_ends_merging() -> None:
    first, second = merge([("a", 1), ("goodbye", END)], [("a", 1), ("a", 2)])
    assert first["goodbye", END] == second["a", 2] == "ended"
