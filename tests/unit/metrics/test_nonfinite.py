"""Tests counts of NaN and Inf, and the first layer that holds one."""

from __future__ import annotations

import math
import re

import torch

from tbx_callbacks._model.tensors import Tensors
from tbx_callbacks.metrics.context import Interval
from tbx_callbacks.metrics.host_values import Text
from tbx_callbacks.metrics.nonfinite import NonFinite
from tests.helpers.contexts import context, finished, tensors

FINITE = {"nonfinite/found": 0.0, "nonfinite/gradients/total": 0.0, "nonfinite/weights/total": 0.0}


def gradients_with_nan(*indices: int) -> Tensors:
    """Tensors with one NaN and one Inf in each tensor at these indices."""
    made = tensors(1)
    for index in indices:
        made[index].view(-1)[:2] = torch.tensor([math.nan, math.inf])
    return Tensors(made)


def test_nonfinite_finite_step_zero_totals() -> None:
    assert finished(NonFinite()(context())) == FINITE


def test_nonfinite_gradients_counted_and_last_layer_named() -> None:
    values = finished(NonFinite()(context(before_clip=gradients_with_nan(0, 2, 3))))
    text = values.pop("nonfinite/first_bad")
    assert values == {
        **FINITE,
        "nonfinite/found": 1.0,
        "nonfinite/gradients/total": 6.0,
        "nonfinite/gradients/0": 2.0,
        "nonfinite/gradients/2": 4.0,
    }
    assert isinstance(text, Text)
    assert "backward reached 2 first" in text.markdown


def test_nonfinite_weights_of_one_layer_counted() -> None:
    values = finished(NonFinite()(context(weights=gradients_with_nan(1))))
    assert values["nonfinite/weights/total"] == values["nonfinite/weights/0"] == 2.0
    assert "nonfinite/weights/2" not in values


def test_nonfinite_spread_by_clipping_no_layer_named() -> None:
    values = finished(
        NonFinite()(context(before_clip=None, gradients=gradients_with_nan(0, 2), spreads_nonfinite=True))
    )
    assert values["nonfinite/found"] == 1.0
    assert not [tag for tag in values if tag.startswith("nonfinite/gradients")]
    text = values["nonfinite/first_bad"]
    assert isinstance(text, Text)
    step, _, problems = text.markdown.partition(": ")
    assert step.startswith("step ")
    assert "clipping spread them to every layer" in problems
    assert not re.search(r"\d|reached|groups", problems)  # the layers are called 0 and 2


def test_nonfinite_losses_counted_when_seen() -> None:
    interval = Interval(losses=8, nonfinite_losses=torch.tensor(3))
    values = finished(NonFinite()(context(interval=interval)))
    assert (values["nonfinite/losses"], values["nonfinite/found"]) == (3.0, 1.0)
