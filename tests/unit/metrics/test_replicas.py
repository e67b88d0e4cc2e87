"""Tests how the numbers of several ranks' copies merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tbx_callbacks._model.replicas import CHECKSUMS, RANKS
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.metrics.replicas import (
    SAME,
    UNKNOWN_RANK,
    Replicas,
    ReplicaState,
    SameBits,
    SameDevices,
    SameGradients,
    SameShards,
)


def merged(checksums: dict[int, int], value: Callable[[float, float, float], SameBits] = SameBits) -> float | None:
    """The result for ranks with these checksums; computes each rank's parts as the ranks do."""
    parts = [
        (float(c * RANKS + rank), float(rank - c * RANKS), float(c + (RANKS - 1 - rank) * CHECKSUMS))
        for rank, c in checksums.items()
    ]
    return value(0.0, 0.0, 0.0).result([], [max(column) for column in zip(*parts, strict=True)])


@pytest.mark.parametrize(
    ("checksums", "expected"),
    [
        ({0: 5, 1: 5}, SAME),
        ({0: 0, 1: 0, 2: 0}, SAME),
        ({3: 7}, SAME),
        ({0: 5, 1: 6}, 1),
        ({0: 6, 1: 5}, 1),
        ({0: 5, 1: 5, 2: 5, 3: 4}, 3),
        ({0: 5, 1: 9, 2: 1, 3: 5}, 1),
        ({2: 5, 3: 5, 6: 8}, 6),
        ({0: CHECKSUMS - 1, RANKS - 1: CHECKSUMS - 2}, RANKS - 1),
        ({0: CHECKSUMS - 1, RANKS - 1: CHECKSUMS - 1}, SAME),
    ],
)
def test_same_bits_names_rank_that_differs(checksums: dict[int, int], expected: float) -> None:
    assert merged(checksums) == expected


def test_same_gradients_zeros_prove_nothing() -> None:
    assert merged({0: 0, 1: 0}, SameGradients) == UNKNOWN_RANK
    assert merged({0: 3, 1: 3}, SameGradients) == SAME
    assert merged({0: 3, 1: 4}, SameGradients) == 1


def shards(replicas: Sequence[dict[int, int]]) -> float | None:
    """The result for sets of ranks that each hold copies of one shard, with these checksums."""
    sums = [0.0, 0.0, 0.0]
    for checksums in replicas:
        first, *others = checksums
        factors = {first: (-float(len(others)), -float(sum(others)))} | {rank: (1.0, float(rank)) for rank in others}
        for rank, checksum in checksums.items():
            factor, by_rank = factors[rank]
            sums = [a + b for a, b in zip(sums, (factor * checksum, by_rank * checksum, factor), strict=True)]
    return SameShards(0.0, 0.0, 0.0).result(sums, [])


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ([{0: 5, 2: 5}, {1: 8, 3: 8}], SAME),
        ([{0: 5, 2: 5}, {1: 8, 3: 9}], 3),
        ([{0: 5, 2: 4}, {1: 8, 3: 8}], 2),
        ([{0: 5, 2: 6}, {1: 8, 3: 7}], UNKNOWN_RANK),  # the differences cancel, but not times the rank
        ([{0: 5, 1: 5, 2: 9}], 2),
    ],
)
def test_same_shards_compares_within_copies(replicas: list[dict[int, int]], expected: float) -> None:
    assert shards(replicas) == expected


def test_same_shards_missing_rank_left_out() -> None:
    assert SameShards(0.0, 0.0, 0.0).result([5.0, 10.0, 1.0], []) is None


def test_same_devices_other_kind_noticed() -> None:
    assert SameDevices(0.0, 0.0).result([], [7.0, -7.0]) == 1
    assert SameDevices(0.0, 0.0).result([], [7.0, -6.0]) == 0


def test_replicas_one_rank_no_values() -> None:
    context = Context("step", 1, RunInfo())
    assert Replicas()(context) == ReplicaState()(context) == {}
