"""Tests how the time of a step is split into parts, on a clock that only the test moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tbx_callbacks._engine.step_times import PassTimes, StepTimes
from tests.helpers.fake_clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def times(clock: Clock) -> StepTimes:
    return StepTimes(clock)


def test_times_switched_parts_add_up(clock: Clock, times: StepTimes) -> None:
    for part, seconds in (("data", 1.0), ("forward", 2.0), ("backward", 4.0), ("data", 8.0)):
        times.switch(part)
        clock.now += seconds
    assert times.totals() == {"data": 9.0, "forward": 2.0, "backward": 4.0, "time/other_s": 0.0}


def test_times_work_between_is_no_part_of_others(clock: Clock, times: StepTimes) -> None:
    times.switch("forward")
    clock.now += 1.0
    times.begin("callbacks")
    clock.now += 2.0
    times.begin("saving")
    clock.now += 4.0
    times.end("saving")
    times.switch("backward")  # from the end of the callbacks on
    clock.now += 8.0
    times.end("callbacks")
    clock.now += 16.0
    totals = times.totals()
    assert (totals["forward"], totals["callbacks"], totals["saving"], totals["backward"]) == (1.0, 10.0, 4.0, 16.0)


def test_times_unbalanced_work_ends_with_outer(clock: Clock, times: StepTimes) -> None:
    times.switch("forward")
    times.begin("callbacks")
    times.begin("saving")  # which raises
    clock.now += 1.0
    times.end("callbacks")
    times.end("saving")
    clock.now += 2.0
    assert times.totals()["forward"] == 2.0


def test_times_own_work_nested_counts_once(clock: Clock, times: StepTimes) -> None:
    times.switch("forward")
    clock.now += 1.0
    times.begin_own()
    clock.now += 2.0
    times.begin_own()
    clock.now += 4.0
    times.end_own()
    clock.now += 8.0
    times.end_own()
    clock.now += 16.0
    assert times.totals() == {"forward": 17.0, "time/monitoring_s": 14.0, "time/other_s": 0.0}


@pytest.mark.parametrize(("following", "part"), [("time/optimizer_s", "time/clip_s"), ("time/data_s", "time/other_s")])
def test_times_after_backward_is_clipping_before_step(
    clock: Clock, times: StepTimes, following: str, part: str
) -> None:
    times.switch("time/backward_s")
    clock.now += 1.0
    times.end_backward()
    clock.now += 2.0
    times.begin("callbacks")
    clock.now += 4.0
    times.end("callbacks")
    clock.now += 8.0
    times.switch(following)
    assert times.totals()[part] == 10.0
    assert times.totals()["time/backward_s"] == 1.0


def test_times_excluded_since_mark_keeps_work_between(clock: Clock, times: StepTimes) -> None:
    times.switch("time/forward_s")
    clock.now += 1.0
    times.mark()
    clock.now += 2.0
    times.begin("callbacks")
    clock.now += 4.0
    times.end("callbacks")
    clock.now += 8.0
    times.exclude("time/evaluation_s")
    clock.now += 16.0
    totals = times.totals()
    assert totals == {
        "time/forward_s": 1.0,
        "callbacks": 4.0,
        "time/evaluation_s": 10.0,
        "time/other_s": 16.0,
    }


def test_times_differences_begin_with_new_parts(clock: Clock, times: StepTimes) -> None:
    times.switch("forward")
    clock.now += 1.0
    earlier = times.totals()
    times.switch("saving")
    clock.now += 2.0
    assert times.totals() - earlier == {"forward": 0.0, "saving": 2.0, "time/other_s": 0.0}


class Ticking(nn.Module):
    """A layer whose forward and backward pass take time."""

    def __init__(self, clock: Clock, forward: float, backward: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, (forward, backward)
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.seconds[0]
        product = inputs * self.weight
        if product.requires_grad:
            product.register_hook(self._tick)
        return product * 1.0

    def _tick(self, gradient: torch.Tensor) -> None:
        self.clock.now += self.seconds[1]


@pytest.mark.parametrize("wrap", [lambda out: out, lambda out: {"logits": out}, lambda out: (out, None)])
def test_passes_of_model_timed(clock: Clock, times: StepTimes, wrap: Any) -> None:
    class Model(Ticking):
        def forward(self, inputs: torch.Tensor) -> Any:
            return wrap(super().forward(inputs))

    model, passes = Model(clock, 2.0, 4.0), PassTimes(times)
    model.register_forward_pre_hook(passes.before_forward)
    model.register_forward_hook(lambda module, inputs, outputs: passes.after_forward(outputs, {}))
    for _ in range(3):
        clock.now += 1.0
        out = model(torch.ones(2))
        loss = out if isinstance(out, torch.Tensor) else out["logits"] if isinstance(out, dict) else out[0]
        clock.now += 8.0  # the loss
        loss.sum().backward()
        clock.now += 16.0
        times.switch("time/optimizer_s")
        times.switch("time/other_s")
    assert times.totals() == {
        "time/other_s": 3.0,
        "time/forward_s": 30.0,
        "time/backward_s": 12.0,
        "time/clip_s": 48.0,
        "time/optimizer_s": 0.0,
    }


def test_passes_in_evaluation_not_timed(clock: Clock, times: StepTimes) -> None:
    model, passes = Ticking(clock, 2.0, 4.0), PassTimes(times)
    model.register_forward_pre_hook(passes.before_forward)
    with torch.no_grad():
        model(torch.ones(2))
    model.eval()
    model(torch.ones(2))
    assert times.totals() == {"time/other_s": 4.0}
