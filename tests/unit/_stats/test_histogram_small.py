"""Tests that many small groups are counted as each of them alone, and as numpy does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tbx_callbacks._stats import histogram, histogram_cpu, histogram_small

SIZES = [1, 2, 3, 767, 768, 768, 768, 8191, 8192, 40, 5]


def groups() -> list[list[Tensor]]:
    torch.manual_seed(0)
    single = [[torch.randn(size) * 10.0 ** (size % 5 - 2)] for size in SIZES]
    several = [[torch.randn(100), torch.randn(0), torch.randn(7).bfloat16()], [torch.randn(9).half(), torch.ones(3)]]
    return single + several


def counted(chosen: list[list[Tensor]], bins: list[int]) -> list[list[float]]:
    return [row.tolist() for row in histogram.count(chosen, histogram.value_ranges(chosen), bins)]


@pytest.mark.parametrize("bins", [1, 2, 64, 255])
def test_small_groups_counted_as_numpy_does(bins: int) -> None:
    for group, row in zip(groups(), counted(groups(), [bins] * len(groups())), strict=True):
        exact = torch.cat([tensor.double() for tensor in group]).numpy()
        found = histogram.finish(row)
        assert found is not None
        assert (found.low, found.high) == (exact.min(), exact.max())
        assert found.total == pytest.approx(exact.sum(), rel=1e-12, abs=1e-12)
        assert found.total_squares == pytest.approx(np.square(exact).sum(), rel=1e-12)
        expected, _ = np.histogram(exact, bins=np.array(found.edges))
        moved = sum(abs(a - int(b)) for a, b in zip(found.counts, expected, strict=True))
        assert sum(found.counts) == len(exact)
        assert moved <= 4  # elements at an edge


def test_small_group_same_alone_and_among_others() -> None:
    bins = [1 + 23 * (index % 11) for index in range(len(groups()))]
    together = counted(groups(), bins)
    alone = [counted([group], [number])[0] for group, number in zip(groups(), bins, strict=True)]
    assert together == alone


def test_groups_left_to_other_code() -> None:
    class Own(Tensor):
        pass

    sizes = histogram_small.sizes_of_small(
        [
            [torch.ones(3), torch.ones(4)],
            [torch.ones(8193)],
            [torch.ones(8000), torch.ones(193)],
            [torch.ones(3).double()],
            [torch.ones(3, dtype=torch.int32)],
            [],
            [torch.ones(0)],
            [torch.ones(2).as_subclass(Own)],
            [nn.Parameter(torch.ones(2), requires_grad=False)],
        ]
    )
    assert sizes == {0: 7, 8: 2}


@pytest.mark.filterwarnings("error")
def test_bad_groups_do_not_touch_good_ones() -> None:
    good = [torch.tensor([1.0, 2.0, 4.0])]
    bad = [torch.tensor([1.0, torch.nan, 2.0])], [torch.tensor([torch.inf])], [torch.tensor([-torch.inf, torch.inf])]
    huge, tiny = [torch.tensor([-3e38, 3e38])], [torch.tensor([1e-45, 3e-45])]
    chosen = [good, *bad, huge, tiny, good]
    rows = counted(chosen, [3] * len(chosen))
    assert rows[0] == rows[-1] == [1.0, 4.0, 7.0, 21.0, 1.0, 1.0, 1.0]
    assert rows[1] == [1.0, 2.0, 3.0, 5.0, 1.0, 0.0, 1.0]
    assert [histogram.finish(row) for row in rows[2:4]] == [None, None]
    assert [sum(row[4:]) for row in rows[4:6]] == [2.0, 2.0]


def test_wider_range_of_other_ranks() -> None:
    work = histogram_cpu.Work([torch.tensor([0.0, 1.0, 2.0])], -4.0, 8.0, 4)
    (row,) = histogram_small.count([work], torch.tensor([[-4.0, 4.0]], dtype=torch.float64), [3])
    assert row is not None
    assert row.tolist() == [-4.0, 4.0, 3.0, 5.0, 0.0, 0.0, 2.0, 1.0]
