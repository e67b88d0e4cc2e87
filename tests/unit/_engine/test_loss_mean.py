"""Tests the mean loss over ranks against one process that has all samples."""

from __future__ import annotations

import math
import random

import pytest
import torch

from tbx_callbacks import tags
from tbx_callbacks._engine import loss_mean
from tbx_callbacks._engine.loss_mean import LossMean
from tbx_callbacks.metrics.values import BatchMean, Value

Batch = tuple[float | None, int]


def written(value: Value) -> tuple[list[float], list[float]]:
    assert isinstance(value, BatchMean)
    return value.parts_of(value.numbers.tolist())


def merged(*ranks: list[Batch]) -> tuple[float | None, float]:
    """The mean and the largest mean of the ranks, each with its micro-batches of a loss and a number of samples."""
    sums: list[float] = []
    maxes: list[float] = []
    largest = -math.inf
    for batches in ranks:
        mean = LossMean()
        mean.is_shared = True
        for loss, samples in batches:
            mean.add(None if loss is None else torch.tensor(loss), samples)
        values = mean.values()
        if not values:
            continue
        own_sums, own_maxes = written(values[tags.TRAIN_LOSS])
        length = max(len(maxes), len(own_maxes))
        sums = [a + b for a, b in zip(_padded(sums, 4 * length, 0.0), _padded(own_sums, 4 * length, 0.0), strict=True)]
        maxes = list(map(max, _padded(maxes, length, -math.inf), _padded(own_maxes, length, -math.inf)))
        largest = max(float(values[tags.TRAIN_LOSS_MAX].maxes()[0]), largest)  # type: ignore[arg-type]
    return BatchMean(torch.zeros(0)).result(sums, maxes), largest


def _padded(numbers: list[float], size: int, fill: float) -> list[float]:
    return [*numbers, *[fill] * (size - len(numbers))]


def test_mean_alone_is_mean_of_batches() -> None:
    mean = LossMean()
    for loss, samples in ((1.0, 4), (2.0, 1), (6.0, 0)):
        mean.add(torch.tensor(loss), samples)
    (value,) = mean.values().values()
    total, count = value.sums()
    assert float(total) / count == 3.0  # type: ignore[arg-type,operator]


def test_mean_sizes_differ_equals_one_process() -> None:
    chosen = random.Random(0)
    ranks = [[(chosen.uniform(0, 5), chosen.randint(1, 9)) for _ in range(7)] for _ in range(3)]
    right = [
        sum(loss * samples for loss, samples in batch) / sum(samples for _, samples in batch)
        for batch in zip(*ranks, strict=True)
    ]
    mean, largest = merged(*ranks)
    assert mean == pytest.approx(sum(right) / 7, rel=1e-6)
    assert largest == pytest.approx(max(sum(loss for loss, _ in rank) / 7 for rank in ranks), rel=1e-6)


@pytest.mark.parametrize(
    ("ranks", "right", "largest"),
    [
        # without numbers of samples every rank has the same weight
        ([[(1.0, 0), (2.0, 0)], [(3.0, 0), (6.0, 0)]], 3.0, 4.5),
        # a rank without samples has no part in a batch, whatever its loss is
        ([[(1.0, 2), (2.0, 2)], [(3.0, 2), (math.nan, 0)]], 2.0, 3.0),
        ([[(1.0, 2), (2.0, 2)], [(3.0, 2), (None, 0)]], 2.0, 3.0),
        # the last rank of a pipeline alone has losses
        ([[(None, 0), (None, 0)], [(1.0, 4), (2.0, 1)]], 1.5, 1.5),
        # a rank that ends earlier
        ([[(1.0, 2), (2.0, 2), (6.0, 2)], [(3.0, 2)]], 10 / 3, 3.0),
        ([[(None, 0)], [(None, 0)]], None, -math.inf),
    ],
)
def test_mean_special_ranks_right(ranks: list[list[Batch]], right: float | None, largest: float) -> None:
    mean, largest_found = merged(*ranks)
    assert mean == (right if right is None else pytest.approx(right))
    assert largest_found == pytest.approx(largest)


def test_mean_nan_loss_stays_visible() -> None:
    mean, largest = merged([(1.0, 2), (2.0, 2)], [(math.nan, 2), (2.0, 2)])
    assert mean is not None
    assert math.isnan(mean)
    assert math.isnan(largest)


def test_mean_many_batches_bounded_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_mean, "_MOST", 8)
    mean = LossMean()
    mean.is_shared = True
    for number in range(1000):
        mean.add(torch.tensor(float(number % 10)), 3)
    value = mean.values()[tags.TRAIN_LOSS]
    sums, maxes = written(value)
    assert len(maxes) <= 16
    assert value.result(sums, maxes) == pytest.approx(4.5)
