"""Tests the values of the metric `wiring`."""

from __future__ import annotations

from tbx_callbacks._wiring.check import Check
from tbx_callbacks.metrics.context import Context, RunInfo
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.wiring import Found, Wiring


def test_wiring_number_and_details() -> None:
    checks = {"no_gradient": Check(2, "encoder"), "double_softmax": Check(0)}
    values = Wiring()(Context("step", 3, RunInfo(), checks=checks))
    assert values == {
        "wiring/no_gradient": Found(2),
        "wiring/double_softmax": Found(0),
        "wiring/no_gradient/details": Text("encoder"),
    }


def test_found_largest_rank_unless_none_judged() -> None:
    assert Found(0).result([], [3.0]) == 3
    assert Found(0).result([], [-1.0]) is None
