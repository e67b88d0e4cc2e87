"""Tests sums that are added up later."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tbx_callbacks._stats.accumulators import LazySum, add_up, kept, stack_scalars


def test_lazy_sum_failing_values_dropped() -> None:
    def broken(tensors: Any) -> Tensor:
        if len(tensors) == 2:
            raise ValueError("two")
        return torch.stack(tensors).sum()

    deferred = LazySum(broken)
    deferred.add(torch.ones(()))
    deferred.add(torch.ones(()))
    with pytest.raises(ValueError, match="two"):
        deferred.total()
    deferred.add(torch.ones(()))
    assert deferred.total() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [1 / 3, 1e-8, float("inf"), float("nan")])
def test_kept_overwritten_later_same_value(dtype: torch.dtype, value: float) -> None:
    scalar = torch.tensor(value, dtype=dtype, requires_grad=True) * 1
    copy = scalar.detach().clone()
    known = kept(scalar)
    scalar.data.zero_()
    assert isinstance(known, Tensor) is (dtype is torch.float64)
    assert torch.equal(
        stack_scalars([known]).nan_to_num(5.0), copy[None].to(stack_scalars([known]).dtype).nan_to_num(5.0)
    )


def test_sum_of_kept_numbers_same_bits() -> None:
    torch.manual_seed(0)
    losses = torch.rand(100).unbind()
    numbers, tensors = LazySum(add_up), LazySum(add_up)
    for loss in losses:
        numbers.add(kept(loss))
        tensors.add(loss.clone())
    total = numbers.total()
    assert isinstance(total, Tensor)
    assert total.dtype is torch.float32
    assert torch.equal(total, torch.as_tensor(tensors.total()))


def test_stack_scalars_numbers_and_tensors_in_order() -> None:
    assert stack_scalars([1.0, torch.tensor(2.0), 3.0]).tolist() == [1.0, 2.0, 3.0]
