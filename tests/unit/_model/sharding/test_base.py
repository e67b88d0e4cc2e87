"""Tests that every strategy implements the whole interface."""

from __future__ import annotations

import pytest

from tbx_callbacks._model.sharding import STRATEGIES
from tbx_callbacks._model.sharding.base import Sharding

MEMBERS = [name for name in vars(Sharding) if not name.startswith("_")]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategy_implements_all_members(strategy: type[Sharding]) -> None:
    assert "weights" in MEMBERS
    missing = [name for name in MEMBERS if name not in vars(strategy)]
    assert not missing
