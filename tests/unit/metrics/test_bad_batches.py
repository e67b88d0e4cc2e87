"""Tests the metric that keeps bad batches: its options and its number."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tbx_callbacks import ConfigError, load_config
from tbx_callbacks.metrics.bad_batches import BadBatches
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.metrics.values import Max


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": -1}, "texts must be a number of characters from 0 to 2000, got -1; 0 keeps no text"),
        ({"spike": 0}, "spike must be above 0, got 0"),
        ({"spike": float("nan")}, "spike must be above 0, got nan"),
        ({"spike": float("inf")}, "spike must be above 0, got inf"),
        ({"keep": 0}, "keep must be a number of batches from 1 to 1000, got 0"),
        ({"keep": 1001}, "keep must be a number of batches from 1 to 1000, got 1001"),
        ({"keep": 2.5}, "keep must be"),
    ],
)
def test_bad_batches_bad_options_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config({"metrics": [{"bad_batches": options}]})


def test_bad_batches_options_from_set() -> None:
    (item,) = load_config({"metrics": [{"bad_batches": {"texts": 80, "spike": None, "keep": 3}}]}).items
    assert item.metric == BadBatches(texts=80, spike=None, keep=3)


def test_bad_batches_number_is_largest_of_ranks() -> None:
    assert BadBatches()(Context("step", 1, RunInfo(), bad_steps=3)) == {"bad_batches/steps": Max(3)}
    assert BadBatches()(Context("step", 1, RunInfo())) == {}
