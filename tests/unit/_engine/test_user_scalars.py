"""Tests scalars that users log: averaged until the next point."""

from __future__ import annotations

import pytest
import torch

from tbx_callbacks._config.schedule import every
from tbx_callbacks._engine.user_scalars import UserScalars


def test_user_scalars_mean_since_last_point() -> None:
    scalars = UserScalars()
    for value in (1.0, torch.tensor([2.0]), 6.0):
        scalars.add("mine/a", value)
    scalars.add("mine/b", torch.tensor(4, dtype=torch.int64))
    assert scalars.pop_final() == {"mine/a": 3.0, "mine/b": 4.0}
    assert scalars.pop_final() == {}


def test_user_scalars_due_only_with_values() -> None:
    scalars = UserScalars()
    scalars.schedule = every(2)
    assert not scalars.due(2)
    scalars.add("a", 1.0)
    assert [scalars.due(step) for step in (1, 2)] == [False, True]


def test_user_scalars_bad_tag_or_shape_refused() -> None:
    scalars = UserScalars()
    with pytest.raises(ValueError, match="a tag must be made of"):
        scalars.add("my tag", 1.0)
    with pytest.raises(ValueError, match=r"a must be a scalar, got shape \(2,\)"):
        scalars.add("a", torch.ones(2))
