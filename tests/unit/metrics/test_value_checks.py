"""Tests that values are checked, and described to other ranks without their tensors."""

from __future__ import annotations

import pickle

import pytest
import torch

from tbx_callbacks._model.parameters import PerGroup
from tbx_callbacks.metrics.value_checks import check_can_travel, checked_parts, without_tensors
from tbx_callbacks.metrics.values import ClipFactor, Max, Mean, Norm, Sum, Unless


def test_checked_parts_by_tag() -> None:
    squares, total = PerGroup(["a"], torch.ones(1)), torch.tensor(2.0)
    parts = checked_parts({"norm/{group}": Norm(squares), "mean": Mean(total, 4), "max": Max(1.0)})
    assert parts == {"norm/{group}": ((squares,), ()), "mean": ((total, 4), ()), "max": ((), (1.0,))}


def test_checked_parts_of_wrong_type_raise() -> None:
    with pytest.raises(TypeError, match="a part of mine must be a number or a tensor, got str"):
        checked_parts({"mine": Sum("no")})  # type: ignore[arg-type]


def test_without_tensors_keeps_options_and_can_be_pickled() -> None:
    value = Unless(ClipFactor(PerGroup(["a"], torch.ones(1)), 2.0), torch.tensor(1.0))
    copy = without_tensors(value)
    assert copy == Unless(ClipFactor({}, 2.0), 0.0)
    assert pickle.loads(pickle.dumps(copy)) == copy


def test_check_can_travel_refuses_lambda() -> None:
    check_can_travel({"norm": Norm(torch.tensor(1.0))})
    with pytest.raises(TypeError, match="the value of mine must be a dataclass that can be pickled"):
        check_can_travel({"mine": Sum(lambda: 1.0)})  # type: ignore[arg-type]
