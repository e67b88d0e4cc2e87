"""Tests the shares of padding, of what grouping saves, and of rows at the limit."""

from __future__ import annotations

import torch

from tbx_callbacks.metrics.context import Padding, RunInfo
from tbx_callbacks.metrics.padding import PaddingShare
from tests.helpers.contexts import context, finished

FOUND = Padding(kept=torch.tensor(60), padded=80, sorted=torch.tensor(64), rows=10, at_limit=torch.tensor(2))


def test_padding_shares_exact() -> None:
    assert finished(PaddingShare()(context(padding=FOUND))) == {
        "padding/share": 0.25,
        "padding/savable": 0.2,
        "padding/at_limit": 0.2,
    }


def test_padding_what_is_not_known_left_out() -> None:
    found = Padding(kept=torch.tensor(60), padded=80, sorted=None, rows=10, at_limit=None)
    for run in (RunInfo(), RunInfo(rank=0)):
        assert finished(PaddingShare()(context(padding=found, run=run))) == {"padding/share": 0.25}
        assert finished(PaddingShare()(context(run=run))) == {}
