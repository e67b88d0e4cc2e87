"""Tests flat views of any tensor as real numbers."""

from __future__ import annotations

import torch

from tbx_callbacks._stats.flat import elements, flat, moved


def test_flat_contiguous_tensor_is_view() -> None:
    vector, matrix = torch.arange(6.0), torch.arange(6.0).reshape(2, 3)
    assert flat(vector) is vector
    assert flat(matrix).data_ptr() == matrix.data_ptr()


def test_flat_complex_transposed_and_sparse_elements() -> None:
    assert flat(torch.tensor([1 + 2j, 3 - 4j]).conj()).tolist() == [1, -2, 3, 4]
    assert flat(torch.arange(6.0).reshape(2, 3).t()).tolist() == [0, 3, 1, 4, 2, 5]
    sparse = torch.sparse_coo_tensor([[0, 2, 2]], [1.0, 2.0, 3.0], (4,), check_invariants=True)
    assert flat(sparse).tolist() == elements(sparse).tolist() == [1, 5]


def test_flat_result_needs_no_gradient() -> None:
    assert not flat(torch.ones(3, requires_grad=True)).requires_grad
    assert moved(torch.ones(2), torch.device("meta")).device.type == "meta"
