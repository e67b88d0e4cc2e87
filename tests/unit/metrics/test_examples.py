"""Tests the metric that records rows: its options and its means."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from tbx_callbacks import ConfigError, load_config
from tbx_callbacks._model.parameters import PerGroup
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.metrics.examples import Examples
from tbx_callbacks.metrics.values import Mean


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": -1}, "texts must be a number of characters from 0 to 2000, got -1; 0 keeps no text"),
        ({"texts": 2001}, "texts must be a number of characters from 0 to 2000, got 2001"),
        ({"texts": True}, "texts"),
        ({"limit_mib": 0}, "limit_mib must be above 0, got 0"),
        ({"limit_mib": float("nan")}, "limit_mib must be above 0, got nan"),
        ({"group_by": ""}, "group_by must name a column, got ''"),
        ({"group_by": 3}, "group_by must be a valid string, got 3"),
        ({"by": "layer"}, "by must be a known option"),
    ],
)
def test_examples_bad_options_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config({"metrics": [{"examples": options}]})


def test_examples_options_from_set() -> None:
    (item,) = load_config({"metrics": [{"examples": {"texts": 80, "limit_mib": 1, "group_by": "source"}}]}).items
    assert item.metric == Examples(group_by="source", texts=80, limit_mib=1.0)


def test_examples_means_by_group() -> None:
    parts = PerGroup(("a", "b"), torch.tensor([6.0, 0.0])), PerGroup(("a", "b"), torch.tensor([3, 0]))
    context = Context("step", 1, RunInfo(), losses_by_group=parts)
    assert Examples()(context) == {"examples/loss/{group}": Mean(*parts)}
    assert Examples()(Context("step", 1, RunInfo())) == {}
