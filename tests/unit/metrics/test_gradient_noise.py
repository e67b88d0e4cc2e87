"""Tests the options and the merged values of the gradient's noise scale."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from tbx_callbacks.metrics.context import Microbatches, RunInfo
from tbx_callbacks.metrics.gradient_noise import GradientNoise, NoiseScale
from tests.helpers.contexts import context, finished


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan, True, "much"])
def test_gradient_noise_bad_decay_refused(decay: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("decay must be at least 0 and below 1, got")):
        GradientNoise(decay=decay)


def test_gradient_noise_without_microbatches_not_written() -> None:
    assert finished(GradientNoise()(context())) == {}
    assert finished(GradientNoise()(context(run=RunInfo(rank=0)))) == {}


def test_gradient_noise_of_hand_made_step_exact() -> None:
    # Two micro-batches of 5 examples with gradients 3 and 1, each halved by accumulation: G is 2.
    step = Microbatches(
        torch.tensor([1.5**2, 0.5**2]), torch.tensor(4.0), torch.tensor([5.0, 5.0]), torch.tensor([0.5, 0.5])
    )
    values = finished(GradientNoise()(context(microbatches=step)))
    signal, noise = (10 * 4 - 5 * 5) / 5, (5 - 4) / (1 / 5 - 1 / 10)
    assert values == {"gradient_noise/scale": pytest.approx(noise / signal), "gradient_noise/batch_size": 10.0}


def test_gradient_noise_of_weighted_micro_batches_exact() -> None:
    # Gradients 3 and 1 of 5 and 2 examples, which have 3/4 and 1/4 of the tokens: G is 2.5.
    weights, sizes = torch.tensor([0.75, 0.25]), torch.tensor([5.0, 2.0])
    step = Microbatches((weights * torch.tensor([3.0, 1.0])).square(), torch.tensor(2.5**2), sizes, weights)
    squares, of_weights, of_sizes = 2.25**2 + 0.25**2, 0.75**2 + 0.25**2, 0.75**2 / 5 + 0.25**2 / 2
    signal = (2.5**2 - squares) / (1 - of_weights)
    noise = (squares - of_weights * 2.5**2) / (of_sizes * (1 - of_weights))
    values = finished(GradientNoise()(context(microbatches=step)))
    assert values == {"gradient_noise/scale": pytest.approx(noise / signal), "gradient_noise/batch_size": 7.0}


@pytest.mark.parametrize(("decay", "first"), [(0.95, 20), (0.9, 10), (0.5, 2), (0.0, 1)])
def test_gradient_noise_after_resume_awaits_average(decay: float, first: int) -> None:
    step = Microbatches(
        torch.tensor([1.5**2, 0.5**2]), torch.tensor(4.0), torch.tensor([5.0, 5.0]), torch.tensor([0.5, 0.5])
    )
    for finished_steps in (0, 7):
        state: dict[str, Any] = {}
        written = []
        for point in range(1, 31):
            run = RunInfo(finished_steps=finished_steps)
            values = finished(GradientNoise(decay)(context(microbatches=step, state=state, run=run)))
            assert values["gradient_noise/batch_size"] == 10.0
            if "gradient_noise/scale" in values:
                written.append(point)
        assert written == list(range(first if finished_steps else 1, 31))


@pytest.mark.parametrize(
    ("sums", "maxes"),
    [
        ((1.0, 0.0, 1.0), (2.0, -2.0)),
        ((1.0, -1.0, 1.0), (2.0, -2.0)),
        ((1.0, 1.0, 1.0), (2.0, -1.0)),
        ((1.0, 1.0, 1.0), (math.nan, 0.0)),
    ],
    ids=["no signal", "negative signal", "ranks differ", "not finite"],
)
def test_noise_scale_that_is_not_known_left_out(sums: tuple[float, ...], maxes: tuple[float, ...]) -> None:
    assert NoiseScale(0.0, 0.0, 0.0, 0.0, 0.0).result(sums, maxes) is None
