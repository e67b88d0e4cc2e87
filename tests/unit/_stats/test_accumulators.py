"""Tests sums that are added up later."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tbx_callbacks._stats.accumulators import LazySum


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
