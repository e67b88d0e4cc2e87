"""Tests checksums of bits against Python integers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tbx_callbacks._stats.checksums import _large, _words, checksums, hash_of, mix

SIZES = (1, 3, 7, 1024, 1025, 5000, 300_000)


def one(tensor: Tensor) -> int:
    return int(checksums([tensor])[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8])
def test_checksums_any_changed_bit_noticed(size: int, dtype: torch.dtype) -> None:
    tensor = (100 * torch.rand(size, generator=torch.Generator().manual_seed(size))).to(dtype)
    before = one(tensor)
    assert one(tensor.clone()) == before
    for index in {0, size // 2, size - 1}:
        for bit in (0, 7):
            changed = tensor.clone()
            changed.view(torch.uint8)[index * tensor.element_size()] ^= 1 << bit
            assert one(changed) != before


@pytest.mark.parametrize("size", SIZES)
def test_checksums_depend_on_values_not_layout(size: int) -> None:
    tensor = torch.randn(size, 2, generator=torch.Generator().manual_seed(0))
    whole = torch.randn(2 * size + 1)
    whole[1:] = tensor.view(-1)
    assert one(whole[1:]) == one(tensor) == one(tensor.t().contiguous().t())  # a view that is not aligned; transposed


def test_checksums_zero_sign_and_nan_payload_differ() -> None:
    zero, quiet = torch.zeros(4), torch.full((4,), torch.nan)
    other = quiet.clone()
    other.view(torch.int32)[2] ^= 1
    assert one(zero) == 0
    assert len({one(zero), one(-zero), one(quiet), one(other)}) == 4


def test_checksums_changes_that_keep_sums_noticed() -> None:
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    changes = {
        "swapped": tensor.roll(1),
        "doubled": 2 * tensor,
        "negated": -tensor,
        "opposite bits": tensor.clone(),
    }
    bits = changes["opposite bits"].view(torch.int32)
    bits[10] += 1
    bits[20] -= 1
    assert len({one(tensor), *map(one, changes.values())}) == 5


@pytest.mark.parametrize("threads", [1, 2])
def test_checksums_same_with_any_threads(threads: int) -> None:
    tensors = [torch.randn(1_500_001, generator=torch.Generator().manual_seed(0)), torch.ones(3)]
    before, own = torch.get_num_threads(), checksums(tensors).tolist()
    torch.set_num_threads(threads)
    try:
        assert checksums(tensors).tolist() == own
    finally:
        torch.set_num_threads(before)


def test_checksums_position_in_list_irrelevant() -> None:
    tensors = [torch.randn(size) for size in SIZES]
    assert checksums(tensors).tolist() == [one(tensor) for tensor in tensors]


def test_checksums_empty_sparse_complex_and_scalar() -> None:
    index, values = torch.tensor([[1, 3]]), torch.tensor([1.0, 2.0])
    sparse = torch.sparse_coo_tensor(index, values, (5,), check_invariants=True)
    kinds = [torch.empty(0), sparse, torch.ones(3, dtype=torch.complex64), torch.tensor(2.0), torch.tensor([True])]
    assert checksums(kinds).shape == (5,)
    assert one(torch.empty(0)) == 0
    assert one(sparse) == one(values)
    assert checksums([]).shape == (0,)


def test_checksums_rows_and_columns_notice_every_bit() -> None:
    words = _words(torch.randn(20_001, generator=torch.Generator().manual_seed(0)))  # as on an accelerator
    before = int(_large(words))
    for index in (0, 1023, 1024, 5000, len(words) - 1):
        changed = words.clone()
        changed[index] += 1
        assert int(_large(changed)) != before
    swapped = words.clone()
    swapped[:2] = words[:2].flip(0)
    assert int(_large(swapped)) != before


def test_mix_different_numbers_stay_different() -> None:
    numbers = torch.cat([torch.arange(-500, 500), 1 << torch.arange(10, 63)])
    assert len(set(mix(numbers).tolist())) == len(numbers)


def test_hash_of_names_is_exact_integer() -> None:
    assert hash_of(["a", "b"]) == int(hash_of(["a", "b"])) < 2**48
    assert hash_of(["a", "b"]) != hash_of(["ab"])
