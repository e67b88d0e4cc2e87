"""Tests that the actions of Lightning's profiler become parts of a step's time."""

from __future__ import annotations

from tbx_callbacks._engine.step_times import StepTimes
from tbx_callbacks.integrations.timed_profiler import TimedProfiler
from tests.helpers.fake_clock import Clock


class Profiler:
    """Records its actions, as a profiler of the user's own."""

    def __init__(self) -> None:
        self.actions: list[str] = []

    def start(self, action_name: str) -> None:
        self.actions.append(f"start {action_name}")

    def stop(self, action_name: str) -> None:
        self.actions.append(f"stop {action_name}")


ACTIONS = {
    "[Callback]Other{}.on_train_batch_end": "time/callbacks_s",
    "[Callback]Own.on_train_batch_end": "time/monitoring_s",
    "[_TrainingEpochLoop].train_dataloader_next": "time/data_s",
    "save_checkpoint": "time/saving_s",
    "[LightningModule]Net.optimizer_step": "time/other_s",
}


def test_profiler_actions_become_parts() -> None:
    clock, profiler = Clock(), Profiler()
    times = StepTimes(clock)
    timed = TimedProfiler(profiler, times, "Own")
    for seconds, action in enumerate(ACTIONS, 1):
        profiler.start(action)
        clock.now += seconds
        profiler.stop(action)
    assert times.totals() == {part: float(seconds) for seconds, part in enumerate(ACTIONS.values(), 1)}
    assert profiler.actions == [f"{word} {action}" for action in ACTIONS for word in ("start", "stop")]
    timed.remove()
    assert "start" not in vars(profiler)
    profiler.start("save_checkpoint")
    clock.now += 100.0
    assert times.totals()["time/saving_s"] == 4.0
