"""Tests that threads compute the same statistics and keep torch's number of threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tbx_callbacks._stats import histogram
from tbx_callbacks._stats.norms import square_norms
from tbx_callbacks._stats.threads import UNSPLIT, Pieces, on_threads

LARGE = (1 << 20) + 12_345


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    known = torch.get_num_threads()
    yield
    torch.set_num_threads(known)


@pytest.mark.parametrize("elements", [LARGE, (1 << 20) + (1 << 17), 23_440_896])
def test_pieces_of_tensor_have_similar_length(elements: int) -> None:
    """Short ones at the end would cost as many calls as long ones."""
    torch.set_num_threads(2)
    lengths = [piece.numel() for _, _, piece in Pieces([[torch.empty(elements)]])]
    assert max(lengths) - min(lengths) < len(lengths)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pieces_cover_every_element_once(threads: int) -> None:
    torch.set_num_threads(threads)
    groups = [
        [torch.arange(5), torch.arange(0), torch.arange(LARGE), torch.arange(3.0)],
        [],
        [torch.arange(10_000)] * 300,
    ]
    sums, sizes = [0.0] * 3, [0] * 3
    pieces = Pieces(groups)
    for part in on_threads(lambda mine: [(p, piece.sum().item(), piece.numel()) for p, _, piece in mine], pieces):
        for index, total, size in part:
            sums[index] += total
            sizes[index] += size
            assert size <= pieces.largest
    assert sums == [sum(tensor.sum().item() for tensor in group) for group in groups]
    assert sizes == [sum(tensor.numel() for tensor in group) for group in groups]


def test_on_threads_few_elements_stay_on_caller() -> None:
    torch.set_num_threads(2)
    pieces = Pieces([[torch.zeros(300_000)]])
    assert pieces.largest == math.ceil(300_000 / math.ceil(300_000 / UNSPLIT)) <= UNSPLIT
    assert on_threads(lambda mine: [threading.current_thread() for _ in mine], pieces) == [
        [threading.main_thread()] * math.ceil(300_000 / UNSPLIT)
    ]


def test_on_threads_keeps_torch_threads() -> None:
    torch.set_num_threads(3)
    seen = on_threads(lambda mine: [torch.get_num_threads() for _ in mine], Pieces([[torch.zeros(4 * LARGE)]]))
    assert {number for part in seen for number in part} == {1}
    assert torch.get_num_threads() == 3
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]


def test_on_threads_error_raised_in_caller() -> None:
    def fail(pieces: Pieces) -> list[Tensor]:
        raise OverflowError("from the thread")

    torch.set_num_threads(2)
    with pytest.raises(OverflowError, match="from the thread"):
        on_threads(fail, Pieces([[torch.zeros(LARGE)]]))
    assert torch.get_num_threads() == 2


def test_on_threads_statistics_deterministic() -> None:
    tensors = [torch.randn(LARGE), torch.randn(7 * 1000), torch.randn(3 * LARGE).bfloat16()]
    torch.set_num_threads(3)

    def measured() -> list[Tensor]:
        groups = [tensors, tensors[:1]]
        return [square_norms(tensors), *histogram.count(groups, histogram.value_ranges(groups), [64, 200])]

    first, *others = [measured() for _ in range(20)]
    for other in others:
        assert all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_square_norms_of_equal_elements_exact() -> None:
    """A BLAS dot product adds up in few lanes, and is 3e-5 off here."""
    assert square_norms([torch.full((1 << 18,), 0.3)]).item() == pytest.approx((1 << 18) * 0.3**2, rel=1e-6)
