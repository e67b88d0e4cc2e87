"""Tests that values are checked."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks._model.parameters import PerGroup
from tbx_callbacks.metrics.value_checks import checked_parts
from tbx_callbacks.metrics.values import Max, Mean, Norm, Sum


def test_checked_parts_by_tag() -> None:
    squares, total = PerGroup(["a"], torch.ones(1)), torch.tensor(2.0)
    parts = checked_parts({"norm/{group}": Norm(squares), "mean": Mean(total, 4), "max": Max(1.0)})
    assert parts == {"norm/{group}": ((squares,), ()), "mean": ((total, 4), ()), "max": ((), (1.0,))}


def test_checked_parts_of_wrong_type_raise() -> None:
    with pytest.raises(TypeError, match="a part of mine must be a number or a tensor, got str"):
        checked_parts({"mine": Sum("no")})  # type: ignore[arg-type]
