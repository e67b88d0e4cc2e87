"""Tests statistics of tensors with more elements than an int32 can count."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks._stats import histogram
from tbx_callbacks._stats.norms import square_norms


@pytest.mark.slow
def test_statistics_of_more_than_int32_elements_exact() -> None:
    number = 2**31 + 7
    tensor = torch.tensor([0.5], dtype=torch.bfloat16).expand(number)  # allocates no memory
    assert square_norms([tensor]).item() == pytest.approx(0.25 * number, rel=1e-6)
    (packed,) = histogram.count([[tensor]], histogram.value_ranges([[tensor]]), [4])
    counted = histogram.finish(packed.tolist())
    assert counted is not None
    assert counted.counts == (0, 0, number, 0)
    assert counted.total == 0.5 * number
