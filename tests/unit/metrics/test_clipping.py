"""Tests the clip factor and the share of clipped steps."""

from __future__ import annotations

import math

import pytest
import torch

from tbx_callbacks.metrics.clipping import Clip
from tbx_callbacks.metrics.context import Interval
from tbx_callbacks.metrics.values import ClipFactor
from tbx_callbacks.tags import TRAINER_CLIP_FACTOR
from tests.helpers.contexts import context, finished


def test_clip_factor_from_norm_exact() -> None:
    values = finished(Clip()(context(clip_factor=ClipFactor(torch.tensor(16.0), 1.0))))
    assert values == {"clip/factor": 1.0 / (4.0 + 1e-6)}


def test_clip_factor_of_trainer_written_when_logged() -> None:
    values = Clip()(context())
    assert finished(values, {TRAINER_CLIP_FACTOR: 0.5}) == {"clip/factor": 0.5}
    assert finished(values) == {}


def test_clip_share_written_only_if_every_step_known() -> None:
    interval = Interval(steps=4, clip_steps=4, clipped_steps=torch.tensor(1))
    assert finished(Clip()(context(interval=interval))) == {"clip/share": 0.25}
    assert finished(Clip()(context(interval=Interval(steps=4, clip_steps=3, clipped_steps=1)))) == {}


def test_clip_without_clipping_by_norm_writes_nothing() -> None:
    assert Clip()(context(clipping="none")) == Clip()(context(clipping="other")) == {}


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [
        (0.0625, 0.0625, 0.25),
        (1.0, 1.0, 1.0),  # not clipped, although the norm is above the limit
        (0.04, 0.04, pytest.approx(0.2)),  # another limit
        (0.0625, 1.0, None),  # a part is not clipped
        (math.inf, -math.inf, 0.25),  # nothing to compare
    ],
)
def test_clip_factor_compared_with_gradients(lowest: float, highest: float, expected: float | None) -> None:
    limits = {"clip_factor": ClipFactor((4.0 - 1e-6) ** 2, 1.0), "clip_ratios": (-lowest, highest)}
    factor = finished(Clip()(context(**limits))).get("clip/factor")
    assert factor == (pytest.approx(expected) if expected == 0.25 else expected)


@pytest.mark.parametrize(("square", "highest", "is_written"), [(math.inf, 0.0, True), (math.inf, 1.0, False)])
def test_clip_factor_of_infinite_norm_compared(square: float, highest: float, is_written: bool) -> None:
    values = Clip()(context(clip_factor=ClipFactor(square, 1.0), clip_ratios=(-highest, highest)))
    assert ("clip/factor" in finished(values)) == is_written


def test_clip_share_left_out_after_disagreement() -> None:
    state: dict[str, bool] = {}
    known = {"interval": Interval(steps=4, clip_steps=4, clipped_steps=1), "clip_factor": ClipFactor(16.0, 1.0)}
    for ratios, expected in (((-0.0625, 0.0625), True), ((-0.0625, 1.0), False), ((-0.0625, 0.0625), False)):
        values = finished(Clip()(context(**known, clip_ratios=ratios, state=state)))
        assert ("clip/share" in values) is expected
