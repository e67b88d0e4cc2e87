"""Tests the clip factor and the share of clipped steps."""

from __future__ import annotations

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
